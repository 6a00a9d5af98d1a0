import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agfsync import recipe as config
from agfsync.errors import RecipeError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: mine\ntraining: {steps: 7, learning_rate: 3e-5}\n")
    return path


def test_what_a_recipe_leaves_out_has_its_default(file: Path) -> None:
    recipe = config.resolve_recipe(str(file))
    assert (recipe.name, recipe.training.steps, recipe.training.learning_rate) == ("mine", 7, 3e-5)
    assert recipe.pairs.weights == {"vqa": 0.35, "clip": 0.55, "aesthetic": 0.10}
    assert config.load_recipe(file) == recipe == config.check_recipe(yaml.safe_load(config.dump_recipe(recipe)), "dump")


def test_an_override_leaves_its_neighbours_as_they_are(file: Path) -> None:
    recipe = config.resolve_recipe(
        str(file), ["pairs.choose.weights.vqa=0.5", "training.lora.rank=4", "training.steps=9"]
    )
    assert recipe.pairs.weights == {"vqa": 0.5, "clip": 0.55, "aesthetic": 0.10}
    assert recipe.training.lora == config.LoraSettings(rank=4)
    assert (recipe.training.steps, recipe.training.learning_rate) == (9, 3e-5)


def test_a_choice_says_which_scorers_it_reads_and_what_it_goes_by(file: Path) -> None:
    def pairs_of(*overrides: str) -> Any:
        return config.resolve_recipe(str(file), overrides)

    best = pairs_of("pairs.choose.weights={vqa: 1, clip: 0}")
    assert best.pairs.summary == "the best and the worst candidate of a caption by the weighted sum of the scores vqa 1"
    pareto = pairs_of("pairs.choose={type: pareto, judges: [vqa, clip]}", "pairs.normalise=rank")
    assert pareto.pairs.weights == {"vqa": 1.0, "clip": 1.0} and list(pareto.candidate_scorers) == ["vqa", "clip"]
    assert pareto.pairs.criterion == "the Pareto fronts of vqa, clip, each as its rank among those of the caption"
    lot = pairs_of("pairs.choose=lot")
    assert lot.candidate_scorers == {} and lot.pairs.summary == "two candidates of a caption by lot"
    assert list(pairs_of("pairs.choose=lot", "scores.by=[clip]").candidate_scorers) == ["clip"]


def test_an_override_brings_what_hangs_on_it(file: Path) -> None:
    asking = config.resolve_recipe(
        str(file),
        [
            "captions.writer=openai",
            "captions.writer.path=a",
            "questions.writer={type: openai, path: a}",
            "questions.minimum=3",
        ],
    )
    assert (asking.captions.similarity, asking.questions.rounds, asking.questions.minimum) == (0.7, 6, 3)


def test_an_override_gives_what_the_recipe_lacks(file: Path) -> None:
    file.write_text("captions: {writer: {type: openai, temperature: 0.5}}")
    model = config.resolve_recipe(str(file), ["captions.writer.path=a"]).captions.writer.language_model
    assert model is not None and (model.path, model.temperature) == ("a", 0.5)


def test_an_override_of_one_scorer_leaves_the_others(file: Path) -> None:
    scorers = config.resolve_recipe(str(file), ["scorers.vqa.dtype=bf16"]).scorers
    assert {name: each.dtype for name, each in scorers.items()} == {"vqa": "bf16", "clip": "auto", "aesthetic": "auto"}
    assert scorers["vqa"].path == "embedded:vqa"


def test_an_engine_may_be_given_by_its_name_and_by_its_settings(file: Path) -> None:
    assert config.resolve_recipe(str(file)).engine == config.Engine(type="local")
    file.write_text("engine: ray")
    assert config.resolve_recipe(str(file)).engine == config.Engine(type="ray")
    four = config.Engine(type="ray", workers=4)
    assert config.resolve_recipe(str(file), ["engine.workers=4"]).engine == four
    assert config.resolve_recipe("shapes", ["engine=ray", "engine.workers=4"]).engine == four


def test_a_part_of_the_generator_may_be_given_by_its_place_and_by_its_settings(file: Path) -> None:
    short = config.resolve_recipe(str(file), ["model.vae=some/vae"]).model
    long = config.resolve_recipe(str(file), ["model.vae={path: some/vae}"]).model
    assert short == long and short.vae == config.PartSettings(path="some/vae")
    pinned = config.resolve_recipe(str(file), ["model.unet={path: some/unet, revision: v1}"])
    assert pinned.model.parts == {"unet": config.PartSettings(path="some/unet", revision="v1")}
    with pytest.raises(RecipeError, match="unknown key 'model.vae.place'"):
        config.resolve_recipe(str(file), ["model.vae={path: some/vae, place: here}"])


@pytest.mark.parametrize("name", config.list_shipped())
def test_every_shipped_recipe_is_one(name: str) -> None:
    assert config.resolve_recipe(name).name == name


UNWEIGHED = "pairs: {choose: {weights: {vqa: 1, aesthetic: 0}}}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: {lr: 1}", "unknown key 'training.lr': did you mean 'learning_rate'?"),
        ("candidates: {per_caption: 1}", "draw 2 or more, or name other models in beside"),
        ("traning: {}", "unknown key 'traning': did you mean 'training'?"),
        ("training: {stesp: 3}", "unknown key 'training.stesp': did you mean 'steps'?"),
        ("training: {lora: {rnak: 3}}", "unknown key 'training.lora.rnak': did you mean 'rank'?"),
        ("scorers: {a: {type: aesthetic, path: b, haed: c}}", "unknown key 'scorers.a.haed': did you mean 'head'?"),
        (
            "candidates: {beside: {a: {path: b, sampling: {stesp: 3}}}}",
            "candidates.beside.a.sampling.stesp': did you mean 'steps'?",
        ),
        ("engine: rya", "engine.type: input should be 'local' or 'ray', got 'rya'"),
        ("engine: {type: ray, worker: 3}", "unknown key 'engine.worker': did you mean 'workers'?"),
        ("engine: {accelerators: 1.5}", "engine.accelerators: more than one accelerator is a whole number of them"),
        ("training: {steps: 0}", "training.steps: input should be greater than or equal to 1, got 0"),
        ("training: {beta: .nan}", "unknown key 'training.beta'"),
        ("training: {watch: {by: looks}}", "training.watch.by names no scorer 'looks': scorers has vqa, clip"),
        ("training: {watch: {by: clip}}", "training.watch.by names 'clip', which the method learns from: name a"),
        (
            "{scorers: {a: {type: clip, path: x}, b: {type: clip, path: x}}, pairs: {choose: {weights: {a: 1}}}, "
            "training: {watch: {by: b}}}",
            "training.watch.by names 'b', the same scorer as 'a', which the method learns from",
        ),
        ("training: {method: {type: nft, reward: {vqa: 1}}, watch: {by: vqa}}", "'vqa', which the method learns from"),
        ("training: {method: nft, noise: tracked}", "training: noise has no effect on the method nft: leave it out"),
        ("training: {method: syngen, caption_dropout: 0.1}", "caption_dropout has no effect on the method syngen"),
        ("training: {watch: {by: clip, captions: 1}}", "training.watch.captions: input should be greater than or"),
        ("training: {watch: {by: clip, evry: 1}}", "unknown key 'training.watch.evry': did you mean 'every'?"),
        (
            f"{{{UNWEIGHED}, captions: {{held_out: 0}}, training: {{watch: {{by: aesthetic}}}}}}",
            "set captions.held_out",
        ),
        (
            f"{{{UNWEIGHED}, model: {{loras: [{{path: a}}]}}, training: {{watch: {{by: aesthetic}}}}}}",
            "training.watch draws with the trained network alone: leave out model.loras",
        ),
        (
            f"{{{UNWEIGHED}, training: {{method: none, watch: {{by: aesthetic}}}}}}",
            "training.watch has nothing to watch: the method none trains no model",
        ),
        ("training: {method: {beta: .nan}}", "training.method.beta"),
        ("name: a/b", "name: "),
        ("pairs: {choose: {weights: {looks: 1.0}}}", "pairs.choose.weights names no scorer 'looks'"),
        ("scores: {by: [looks]}", "scores.by names no scorer 'looks': scorers has vqa, clip, aesthetic"),
        ("evaluation: {sets: {held-out: {by: [looks]}}}", "evaluation.sets.held-out.by names no scorer 'looks'"),
        ("evaluation: {sets: {tifa: {}}}", "evaluation.sets.tifa has no source"),
        ("scorers: {a: {path: b}}", "scorers.a: give it a type: there are vqa, "),
        ("scorers: {a: {type: vqaa, path: b}}", "scorers.a: no scorer is called 'vqaa': did you mean 'vqa'?"),
        ("pairs: {choose: {weights: {clip: 0.0}}}", "pairs.choose.weights: the weights are all 0"),
        ("pairs: {choose: parto}", "pairs.choose: no choice is called 'parto': did you mean 'pareto'?"),
        ("pairs: {choose: {type: vote, judges: [looks]}}", "pairs.choose.judges names no scorer 'looks'"),
        ("pairs: {choose: {type: vote, judges: []}}", "pairs.choose.judges: "),
        ("pairs: {choose: {type: vote, judges: [clip, clip]}}", "pairs.choose.judges: 'clip' is listed twice"),
        ("pairs: {choose: {type: vote, minimum_margin: 3}}", "minimum_margin 3 leaves no pair: there are 3 votes"),
        ("pairs: {choose: {type: pareto, weights: {clip: 1}}}", "unknown key 'pairs.choose.weights': "),
        ("pairs: {choose: {type: lot, minimum_margin: 3}}", "unknown key 'pairs.choose.minimum_margin': "),
        ("pairs: {choose: {type: calibrated, scale: {looks: 3}}}", "scale names 'looks', which has no weight"),
        ("pairs: {choose: {type: calibrated, scale: {vqa: 0}}}", "pairs.choose.scale.vqa: "),
        ("pairs: {normalise: zscore}", "pairs.normalise: input should be 'none', 'z-score' or 'rank', got 'zscore'"),
        ("pairs: {normalise_over: run}", "normalise_over changes nothing without normalise"),
        ("pairs: {source: a, normalise: rank}", "normalise needs scores, and the pairs of a source have none"),
        ("pairs: {share: 0}", "pairs.share: input should be greater than 0, got 0"),
        ("captions: {writer: openai}", "captions.writer.path: name a language model here, or in the environment's"),
        ("captions: {writer: {type: openai, path: a, max_cost: 3}}", "max_cost needs prices"),
        (
            "captions: {writer: {type: openai, path: a, api_key: b}}",
            "unknown key 'captions.writer.api_key': there are type, base_url, ",
        ),
        ("- captions", "a recipe is a mapping of stages, this is a list"),
        ("name: x\nmodel: {path: a\nscorers: 3", "not YAML: line 3, column 8: expected ',' or '}'"),
        ("captions: {count: 4}\nseed: 1\ncaptions: {seed: 2}", "not YAML: line 3, column 1: 'captions' stands twice"),
        ("# nothing yet", "it is empty; `agfsync recipes show shapes` prints a whole recipe"),
        ("captions: {count: many}", "captions.count: should be a whole number, got 'many'"),
        ("training: {learning_rate: much}", "training.learning_rate: should be a number, got 'much'"),
        ("captions: 4", "captions: should be a section of keys, got 4"),
        ("name: 4", "name: should be a text, got 4"),
    ],
)
def test_a_fault_is_one_line_that_says_where(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(RecipeError) as raised:
        config.resolve_recipe(str(file))
    assert str(raised.value).startswith(f"{file}: ") and "\n" not in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.parametrize("override", ["training.steps", "=3", "training..steps=3", "name.first=x", "name=[unclosed"])
def test_an_override_that_isnt_one_is_told(file: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        config.resolve_recipe(str(file), [override])


def test_a_recipe_that_cant_be_read_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(RecipeError, match="can't be read: Permission denied"):
        config.load_recipe(file)


def test_a_source_is_kept_whole_so_that_the_run_can_be_gone_on_with_from_anywhere(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    recipe = config.resolve_recipe(str(file), ["captions.source=prompts.txt", "pairs.source=~/pairs"])
    assert recipe.captions.source == str(file.parent / "prompts.txt")
    assert recipe.pairs.source == str(Path.home() / "pairs")


def test_a_language_model_brings_the_papers_rounds_and_near_duplicates_unless_said_otherwise(file: Path) -> None:
    plain = config.resolve_recipe(str(file))
    assert (plain.captions.similarity, plain.captions.words) == (1.0, None)
    assert (plain.questions.rounds, plain.questions.similarity) == (1, 1.0)
    file.write_text("captions: {writer: {type: openai, path: a}}\nquestions: {writer: {type: openai, path: a}}")
    asking = config.resolve_recipe(str(file))
    assert (asking.captions.similarity, asking.captions.words) == (0.7, (4, 60))
    assert (asking.questions.rounds, asking.questions.similarity) == (6, 0.8)
    writer = "writer: {type: openai, path: a}"
    file.write_text(f"captions: {{{writer}, similarity: 0.9}}\nquestions: {{{writer}, rounds: 2}}")
    said = config.resolve_recipe(str(file))
    assert (said.captions.similarity, said.questions.rounds) == (0.9, 2)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("captions.words=[60,4]", "the fewest words come first, then the most"),
        ("captions.words=[0,4]", "greater than or equal to 1"),
        ("questions.maximum=0", "greater than or equal to 1"),
        ("scorers.vqa.template=Is it?", "a template has one {} where the question goes"),
        ("scorers.vqa.template='{} {}'", "a template has one {} where the question goes"),
    ],
)
def test_what_cannot_be_asked_for_is_told(file: Path, given: str, line: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(line)):
        config.resolve_recipe(str(file), [given])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["training.times=logit-normal"], "training.times and training.shift are a flow model's, and stable-diffusion"),
        (
            ["training.method.type=policy-gradient", "training.method.steps=10", "training.method.window=6"],
            r"window 6 has no room in the share \[0.0, 0.5\] of 10 steps",
        ),
    ],
)
def test_settings_of_flows_are_refused_where_they_make_no_sense(file: Path, changes: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        config.resolve_recipe(str(file), changes)


def test_a_caption_cannot_have_more_questions_than_it_may_keep(file: Path) -> None:
    with pytest.raises(RecipeError, match="maximum 4 is below minimum 5: no caption could have both"):
        config.resolve_recipe(str(file), ["questions.maximum=4", "questions.minimum=5"])


def test_the_language_model_of_the_environment_is_written_down(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MODEL", "llama")
    file.write_text("captions: {writer: openai}")
    recipe = config.resolve_recipe(str(file))
    monkeypatch.delenv("OPENAI_MODEL")
    assert config.check_recipe(yaml.safe_load(config.dump_recipe(recipe)), "dump") == recipe
    model = recipe.captions.writer.language_model
    assert model is not None and model.path == "llama"


@pytest.mark.parametrize("url", ["https://me:sk-secret@host/v1", "https://host/v1?key=sk-secret"])
def test_credentials_in_an_address_are_refused_and_not_said(file: Path, url: str) -> None:
    file.write_text(f"captions: {{writer: {{type: openai, path: a, base_url: '{url}'}}}}")
    with pytest.raises(RecipeError, match=r"captions.writer.base_url: leave credentials out of an address") as raised:
        config.resolve_recipe(str(file))
    assert "sk-secret" not in str(raised.value)


def test_a_step_has_no_more_parts_than_pairs(file: Path) -> None:
    with pytest.raises(RecipeError, match="accumulate splits the 4 pairs of training.batch into 5 parts"):
        config.resolve_recipe(str(file), ["training.batch=4", "training.accumulate=5"])


def test_the_settings_of_another_package_reach_the_workers(make_recipe: Any) -> None:
    recipe = make_recipe(scorers={"red": {"type": "double", "path": "none", "mine": 3}, "vqa": {"type": "asking"}})
    assert pickle.loads(pickle.dumps(recipe)) == recipe  # noqa: S301
    assert pickle.loads(pickle.dumps(recipe.scorers["red"])).mine == 3  # noqa: S301


def test_a_judge_that_chooses_nothing_may_be_watched(file: Path) -> None:
    file.write_text(f"{{{UNWEIGHED}, training: {{watch: {{by: clip, every: 5}}}}}}")
    watch = config.resolve_recipe(str(file), ["training.watch.stop=true"]).training.watch
    assert watch is not None and (watch.every, watch.captions, watch.stop, watch.metric) == (
        5,
        64,
        True,
        "watched_clip",
    )
    online = "training: {method: {type: nft, reward: {vqa: 1}}, watch: {by: clip}}"
    file.write_text(f"{{{UNWEIGHED}, {online}}}")
    assert config.resolve_recipe(str(file)).teachers == ("vqa",)
    file.write_text("{pairs: {source: a}, training: {watch: {by: clip}}}")
    assert config.resolve_recipe(str(file)).teachers == ()
