"""The file of a study: its arms' recipes, its faults, and the shipped studies."""

from pathlib import Path

import pytest
import yaml

from agfsync.errors import RecipeError
from agfsync.study.settings import dump_study, list_shipped_studies, load_study
from agfsync.study.sharing import find_shared_stages, list_arm_stages, make_base_recipe


@pytest.fixture
def write_study(tmp_path: Path):
    def write(arms: object, **more: object) -> str:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": "shapes", "arms": arms, **more}, sort_keys=False))
        return str(tmp_path / "mine.yaml")

    return write


@pytest.mark.parametrize("name", list_shipped_studies())
def test_each_arm_of_a_shipped_study_has_a_valid_recipe(name: str) -> None:
    study = load_study(name)
    arms = study.resolve_arms()
    assert {arm.name for arm in arms} == set(study.arms) and all(arm.recipe.name == arm.name for arm in arms)
    base = make_base_recipe(study.resolve_base(study.varied[1][0]), arms)
    some = [arm for arm in arms if arm.seed == study.varied[1][0]]
    drawn = any("candidates" in list_arm_stages(arm) for arm in some)
    shared = ["captions", "questions", "candidates", "scores"] if drawn else ["captions", "questions"]
    found = find_shared_stages(base, some)
    # Rounds are compared with a run of more captions.
    assert found == [] if name == "rounds" else found[: len(shared)] == shared
    assert ("reward" in found) == (name == "rewards"), "all its arms judge by one reward model"


def test_an_arm_has_the_studys_changes_then_its_own_under_each_seed(write_study) -> None:
    source = write_study({"a": {"training.steps": 9}, "b": {}}, set={"training.steps": 7}, seeds={"seed": [3, 4]})
    arms = load_study(source, ["training.batch=5"]).resolve_arms()
    found = [(arm.name, arm.seed, arm.recipe.seed, arm.recipe.training.steps) for arm in arms]
    assert found == [("a", 3, 3, 9), ("a", 4, 4, 9), ("b", 3, 3, 7), ("b", 4, 4, 7)]
    assert {arm.recipe.training.batch for arm in arms} == {5}


def test_an_arm_without_training_has_one_training_seed(write_study) -> None:
    arms = {"dpo": {}, "syngen": {"training.method": {"type": "syngen"}}, "base-6": {"training.method": "none"}}
    study = load_study(write_study(arms, seeds={"training.seed": [0, 1]}))
    assert [(arm.name, arm.seed) for arm in study.resolve_arms()] == [
        ("dpo", 0),
        ("dpo", 1),
        ("syngen", 0),
        ("base-6", 0),
    ]


@pytest.mark.parametrize(
    ("arms", "more", "says"),
    [
        ({"dpo": {"training.stps": 3}}, {}, "arm dpo: unknown key 'training.stps': did you mean 'steps'"),
        ({"dpo": {"training.steps": 0}}, {}, "arm dpo: training.steps: .* got 0"),
        ({"a/b": {}}, {}, "arms.a/b: an arm's name has"),
        ({"base": {}}, {}, "isn't base"),
        ({"a": {}}, {"against": "b"}, "against names no arm 'b': arms has a"),
        ({"a": {}}, {"seeds": {"seed": [1], "training.seed": [2]}}, "seeds: give one key"),
        ({"a": {}}, {"seed": [1]}, "unknown key 'seed'"),
        ({"a": {}}, {"base": "shaps"}, "no recipe 'shaps'"),
    ],
)
def test_a_fault_is_one_line_that_names_it(write_study, arms: object, more: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_study(write_study(arms, **more)).resolve_arms()


def test_the_kept_study_needs_no_other_file(tmp_path: Path, write_study) -> None:
    study = load_study(write_study({"a": {"pairs.share": 0.5}}), ["training.steps=3"])
    (tmp_path / "study.yaml").write_text(dump_study(study))
    again = load_study(str(tmp_path / "study.yaml"))
    assert [arm.recipe for arm in again.resolve_arms()] == [arm.recipe for arm in study.resolve_arms()]


def test_arms_that_draw_alike_share_scores_by_all_of_their_judges(write_study) -> None:
    arms = {
        "vqa": {"pairs.choose": {"weights": {"vqa": 1.0}}},
        "clip": {"pairs.choose": {"weights": {"clip": 1.0}}},
        "none": {"training.method": "none", "model.sampling.guidance": 6.0},
    }
    study = load_study(write_study(arms))
    base = make_base_recipe(study.resolve_base(0), study.resolve_arms())
    assert list(base.candidate_scorers) == ["vqa", "clip"]
    assert find_shared_stages(base, study.resolve_arms()) == ["captions", "questions", "candidates", "scores"]


def test_arms_with_the_same_scores_and_choice_share_pairs_and_the_reward_model(write_study) -> None:
    drawn = ["captions", "questions", "candidates", "scores"]
    for changes, shared in (
        ({"training.steps": 9}, ["pairs", "reward"]),
        ({"reward.share": 0.5}, ["pairs"]),
        ({"pairs.share": 0.5}, []),
        ({"scores.by": ["annotator", "vqa"]}, []),
    ):
        study = load_study(write_study({"a": {}, "b": changes}, base="shapes-visionprefer"))
        base = make_base_recipe(study.resolve_base(0), study.resolve_arms())
        assert find_shared_stages(base, study.resolve_arms()) == [*drawn, *shared]


def test_what_one_arm_changes_ends_what_all_share(write_study) -> None:
    study = load_study(write_study({"a": {}, "b": {"candidates.embedding_noise": 0.1}}))
    base = make_base_recipe(study.resolve_base(0), study.resolve_arms())
    assert find_shared_stages(base, study.resolve_arms()) == ["captions", "questions"]


def test_a_study_file_in_the_current_folder_is_named_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    Path("study.yaml").write_text("arms: {a: {}}")
    assert load_study("study.yaml").name == "mine"
