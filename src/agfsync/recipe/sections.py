"""The sections of a recipe in stage order; the only place with their defaults."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from agfsync import catalog
from agfsync.recipe.base import HELD_OUT, DtypeName, Positive, Section, Share, SourcePath
from agfsync.recipe.checks import check_agreement
from agfsync.recipe.choices import BestWorstSettings
from agfsync.recipe.given import GivenSettings
from agfsync.recipe.methods import DpoSettings
from agfsync.recipe.reward import Reward
from agfsync.recipe.rounds import Rounds, Start
from agfsync.recipe.steering import SteeringSettings
from agfsync.recipe.types import (
    AestheticSettings,
    CaptionWriterOfType,
    ChoiceOfType,
    EmbeddingSettings,
    MethodOfType,
    ModelOfType,
    ModelSettings,
    PairwiseOfType,
    PolisherOfType,
    QuestionWriterOfType,
    ScorerOfType,
    ScorerSettings,
    StableDiffusionSettings,
    VqaSettings,
    WriterSettings,
    asks_language_model,
)

SHAPES_SCORERS: dict[str, ScorerSettings] = {
    "vqa": VqaSettings(type="vqa", path="embedded:vqa"),
    "clip": EmbeddingSettings(type="clip", path="embedded:clip"),
    "aesthetic": AestheticSettings(type="aesthetic", path="embedded:clip", head="embedded:aesthetic"),
}


def _asks_a_model(kind: str, tree: Any) -> bool:
    return isinstance(tree, dict) and asks_language_model(kind, tree.get("writer", "shapes"))


class Captions(Section):
    """Stage 1: the captions to draw."""

    writer: CaptionWriterOfType = WriterSettings()
    source: SourcePath | None = None
    """a file or folder of prompts, in the writer's place; where it has questions on a prompt, they are asked"""
    split: str = ""
    """of a source that is a folder with several, such as "validation", or "all" of them. Default: its train split"""
    count: int = Field(default=128, ge=0)
    """captions to make pairs of, spread evenly over the writer's categories; a pair set brings its own. 0: none, for a
    method that learns from nothing"""
    held_out: int = Field(default=200, ge=0)
    """captions kept apart for the evaluation"""
    skip: int = Field(default=0, ge=0)
    """captions to train on that are left out, the first ones of each category: those of earlier rounds"""
    similarity: float = Field(default=1.0, gt=0, le=1)
    """from which on two of the writer's captions of a category are too alike (Jaccard of n-grams); 1: only if they are
    the same. With a language model 0.7 unless said otherwise"""

    words: tuple[Positive, Positive] | None = None
    """the fewest and the most words of a caption that a writer writes; others are left out and counted. Absent: any
    number. With a language model [4, 60] unless said otherwise"""
    polish: PolisherOfType | None = None
    """a language model that rewrites the prompts of the writer or the source without bias, inconsistency and unsafe
    content; the original is kept beside each, and what was changed. Those that it refuses, or whose rewriting can't be
    used, are skipped. Absent: prompts stay as they are"""

    @field_validator("words")
    @classmethod
    def _from_fewer_to_more(cls, words: tuple[int, int] | None) -> tuple[int, int] | None:
        if words is not None and words[0] > words[1]:
            raise ValueError(f"the fewest words come first, then the most: [{words[1]}, {words[0]}]")
        return words

    @model_validator(mode="before")
    @classmethod
    def _model_repeats_itself(cls, tree: Any) -> Any:
        return {"similarity": 0.7, "words": [4, 60]} | tree if _asks_a_model("captions", tree) else tree


class Questions(Section):
    """Stage 2: yes/no questions on each caption."""

    writer: QuestionWriterOfType = WriterSettings()
    """asks where the captions' file has no question on a caption. none: no scorer of the recipe needs questions"""
    rounds: Positive = 1
    """times each caption is processed; repeated questions are dropped. With a language model 6, as in the paper, unless
    said otherwise"""
    minimum: int = Field(default=1, ge=0)
    """a caption with fewer valid questions is skipped; the authors' code takes 5. With the writer none 0 unless said
    otherwise"""
    maximum: Positive | None = None
    """a caption keeps its first so many valid questions; absent: all"""
    similarity: float = Field(default=1.0, gt=0, le=1)
    """from which on two questions of a type, on the same element, are too alike (Jaccard of the words that say
    something); 1: only if they are the same. With a language model 0.8 unless said otherwise"""
    verify: bool = False
    """let the language model read each caption again, and drop the questions that it doesn't answer with yes"""

    @model_validator(mode="before")
    @classmethod
    def _rounds_of_the_paper(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("writer") in ("none", {"type": "none"}):
            return {"minimum": 0} | tree
        return {"rounds": 6, "similarity": 0.8} | tree if _asks_a_model("questions", tree) else tree

    @model_validator(mode="after")
    def _room_for_the_minimum(self) -> Self:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}: no caption could have both")
        return self


class Candidates(Section):
    """Stage 3: N images of each caption (Eq. 1)."""

    beside: dict[str, ModelOfType] = Field(default={})
    """other models that also draw every caption, under names of your own; they are not aligned"""
    per_caption: Positive = 8
    """images by each model, 2 or more in all; drawn together, or where memory runs out in parts"""
    embedding_noise: float = Field(default=0.1, ge=0)
    """sigma of the noise on the text embedding"""

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if self.per_caption == 1 and not self.beside:
            raise ValueError("per_caption 1 leaves nothing to compare: draw 2 or more, or name other models in beside")
        return self


class Scores(Section):
    """Stage 4: scores of every candidate (Eq. 2 to 4)."""

    by: tuple[str, ...] | None = None
    """the scorers; default: those that pairs.choose reads"""
    batch: Positive = 64
    """candidates scored at a time; fewer where memory runs out"""


class Pairs(Section):
    """Stage 5: pairs of each caption's candidates: by default the best and the worst (Eq. 5 to 7)."""

    source: SourcePath | None = None
    """a pair set: its images are the candidates and its preferences the pairs, nothing is drawn, scored or weighed"""
    split: str = ""
    """of a pair set that is a folder with several, such as "validation", or "all" of them. Default: its train split"""
    repeats: Literal["majority", "all"] = "majority"
    """several judgements of the same two images in a pair set: one pair, by their majority; or a pair of each"""
    choose: ChoiceOfType = BestWorstSettings()
    """how pairs are made of scored candidates. By weights: best-worst of each caption; every two candidates, ordered;
    calibrated, best and worst by expected win rates. By judges without weights: pareto, the winner dominates the loser;
    vote, of the majority; by-aspect, a pair for each judge. lot: drawn by lot, as a control"""
    normalise: Literal["none", "z-score", "rank"] = "none"
    """of each scorer's scores, before pairs.choose sees them, since raw scales decide more than weights do. none: the
    raw scores, as in the paper; z-score: less the mean, over the standard deviation; rank: the share of the other
    scores that a score beats, on 0..100, an equal one counts one half. A candidate without a score stays without"""
    normalise_over: Literal["caption", "run"] = "caption"
    """whose scores pairs.normalise compares a score with: those of the caption's candidates, or of all the run's. Over
    the run a caption whose candidates differ little gives a small margin"""
    share: float = Field(default=1.0, gt=0, le=1)
    """share of the captions that give pairs, chosen by their keys: a larger share contains the smaller one"""

    @model_validator(mode="after")
    def _has_scores_to_normalise(self) -> Self:
        if self.normalise != "none" and self.source is not None:
            raise ValueError("normalise needs scores, and the pairs of a source have none: leave out normalise")
        if self.normalise == "none" and self.normalise_over != "caption":
            raise ValueError("normalise_over changes nothing without normalise: set that to z-score or rank")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The scorers that the choice reads, each with its weight; 1 for each where it has no weights."""
        return self.choose.scorers

    @property
    def criterion(self) -> str:
        """The rule that decides who wins, for people: "the weighted sum of the scores vqa 0.35, clip 0.55"."""
        if self.normalise == "none":
            return self.choose.criterion
        whose = "of the caption" if self.normalise_over == "caption" else "of the run"
        return f"{self.choose.criterion}, each as its {self.normalise} among those {whose}"

    @property
    def summary(self) -> str:
        """The rule that makes a pair, for people; empty for the pairs of a source."""
        return "" if self.source else f"{self.choose.picks} by {self.criterion}"


class LoraSettings(Section):
    """A LoRA that is trained in place of the whole denoiser."""

    rank: Positive = 16
    alpha: float | None = None
    """default: the rank, so that every program reads the file with the same strength"""


class Watch(Section):
    """A judge that nothing trains on, measured on held-out captions while the model trains.

    The images are drawn with the network as it then is, from the evaluation's seeds, in training.precision and without
    a refiner. Watching changes no trained weight.
    """

    by: str
    """a scorer that the method doesn't learn from"""
    every: Positive = 25
    """steps between two measurements; the base before the first step and the last step are also measured"""
    captions: int = Field(default=64, ge=2)
    """the first so many held-out captions by their keys, so that more of them contain the fewer"""
    stop: bool = False
    """end the training when the judge falls below its best mean by more than 1.645 standard errors of the difference
    on the same captions, while what the method raises (its reward, else its implicit accuracy, else minus its loss) is
    no lower than it was then. The result is the best measured step's weights. That step is chosen on captions of the
    evaluation set held-out, so this judge's gain there is a little too high"""

    @property
    def metric(self) -> str:
        """The name of the judge's mean among the metrics of a training."""
        return f"watched_{self.by}"


class Training(Section):
    """Stage 6: alignment on the pairs (Eq. 8)."""

    method: MethodOfType = DpoSettings()
    lora: LoraSettings | None = None
    """absent: the whole denoiser is trained"""
    seed: int | None = Field(default=None, ge=0)
    """of the training's order, noise and first LoRA weights; default: the run's seed"""
    steps: Positive = 1000
    batch: Positive = 128
    """pairs a step, of all processes together"""
    learning_rate: float = Field(default=5e-7, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    """steps over which the learning rate rises to its full value"""
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    precision: DtypeName = "auto"
    """in which numbers the networks multiply; the trained weights stay fp32. fp16 scales its loss, and needs an
    accelerator"""
    checkpoint_every: Positive = 50
    """steps"""
    accumulate: Positive = 1
    """parts in which a step's pairs go through the networks: more of them need less memory, for the same result; there
    are more by themselves where memory runs out, and several processes share them"""
    gradient_checkpointing: bool = False
    """compute activations twice and keep few: less memory, more time, the same result"""
    fsdp: bool = False
    """several processes share the weights, gradients and moments of the whole network, each with its part (torch's
    FSDP2): less memory in each; one process trains as without"""
    compile: bool = False
    """torch.compile the network that is trained: the first step takes minutes longer, the others less time"""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its moments in a quarter of the memory; it needs the package bitsandbytes"""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """decay of the weights' moving average, such as 0.9999; with it the average is the result"""
    caption_dropout: Share = 0.0
    """share of the pairs of a step that are trained without their caption, winner and loser alike"""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """where each step's figures go in addition to the run's own log; each is a package to install"""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """weigh each pair by its timestep, by min-SNR with this gamma (its paper's: 5); absent: all alike, as in DPO"""
    loss_space: Literal["model", "epsilon"] = "model"
    """whose errors Eq. 8 takes: of what the network predicts, or of the noise, as in the paper; they differ for models
    that predict v, whose errors are the noise's times 1 / alpha-bar. With min_snr_gamma both are the same"""
    noise: Literal["independent", "tracked"] = "independent"
    """the noise that is added to an image in training: new in each step, and the same for winner and loser; or tracked,
    the noise that the image was drawn from, which follows from its seed (as in PNAPO, arXiv:2605.09433)"""
    times: Literal["uniform", "logit-normal"] | None = None
    """the distribution of a flow model's training times: uniform, or logit-normal, which favours the middle (Flow-DPO
    by flow_grpo and Flow-Factory). Default: that of diffusers' training script, logit-normal for stable-diffusion-3 and
    uniform for the others"""
    shift: float | None = Field(default=None, gt=0)
    """moves a flow model's training times t towards noise, to shift t / (1 + (shift - 1) t). Default: as the model's
    scheduler does in drawing; 1: not at all"""
    watch: Watch | None = None
    """absent: no judge is measured during the training"""

    @property
    def stopping_watch(self) -> Watch | None:
        """The watch that may end the training; one that may not affects no result."""
        return self.watch if self.watch is not None and self.watch.stop else None

    @property
    def uses(self) -> tuple[str, ...]:
        """The uses that the training makes of the model, for the check that it can."""
        return self.method.uses, *(("tracked noise",) if self.noise == "tracked" else ())

    @model_validator(mode="after")
    def _no_empty_part(self) -> "Training":
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate splits the {self.batch} pairs of training.batch into {self.accumulate} parts")
        return self

    @model_validator(mode="after")
    def _can_be_sharded(self) -> "Training":
        """Refuse what a training with `fsdp` can't do."""
        obstacles = {
            "a LoRA, whose network is frozen: leave out lora, or fsdp": self.lora is not None,
            f"the method {self.method.type}: take one that learns from pairs or scores": (
                self.method.needs not in ("pairs", "scores")
            ),
            "the optimizer adamw8bit: set it to adamw": self.optimizer == "adamw8bit",
            "fp16: set precision to bf16 or fp32": self.precision == "fp16",
            "compiled blocks: leave out compile": self.compile,
            "a watch, which draws in the first process alone: leave it out": self.watch is not None,
        }
        for what in (what for what, is_there in obstacles.items() if self.fsdp and is_there):
            raise ValueError(f"fsdp isn't there for {what}")
        return self

    @model_validator(mode="after")
    def _has_images_for_its_options(self) -> "Training":
        """Refuse options about the images of a pair or candidate for a method that has none."""
        if self.method.needs in ("captions", "nothing"):
            for name in ("caption_dropout", "min_snr_gamma", "loss_space", "noise"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect on the method {self.method.type}: leave it out")
        return self


class EvaluationSet(Section):
    """Captions that base and aligned model are compared on, and the scorers that judge the images."""

    source: SourcePath | None = None
    """a file or folder of prompts; where it has questions on a prompt, they are asked. The set held-out has none: its
    captions are those that captions.held_out keeps apart"""
    split: str = ""
    """of a source that is a folder with several"""
    count: Positive | None = None
    """prompts that are taken, spread evenly over the source's categories; default: all"""
    by: tuple[str, ...] | None = None
    """the scorers; default: all"""
    measure: str | None = None
    """a benchmark's own rule, by which each judge's scores of the set are also summed up: tifa, dsg, dpg, hpsv2,
    soft-tifa or t2i-compbench"""
    of: str | None = None
    """of a set that is judged pairwise: the set whose captions and images it takes"""
    pairwise: PairwiseOfType | None = None
    """the judge that sees base and aligned image of each caption side by side, in both orders"""

    @field_validator("measure")
    @classmethod
    def _is_known(cls, measure: str | None) -> str | None:
        if measure is not None and measure not in (there := catalog.list_names("measures")):
            raise ValueError(f"there are the measures {', '.join(there)}")
        return measure


class Evaluation(Section):
    """Stage 7: base against aligned model on each set of captions, from the same seeds."""

    sets: dict[str, EvaluationSet] = Field(default={HELD_OUT: EvaluationSet()}, min_length=1)
    """the first one is the verdict's"""
    controls: tuple[Literal["random-sft", "by-lot"], ...] = ()
    """trainings without the feedback, as long as the run's own, that the aligned model is compared with: random-sft
    fine-tunes on a random candidate of each caption; by-lot draws winner and loser of each pair by lot"""
    per_caption: Positive = 1
    """images of each caption of the first set that either model draws. With more than one the report compares how
    different a caption's images are, since a model that is trained too long draws them all alike"""
    reference: SourcePath | None = None
    """a folder of images, such as photographs: the report says how far the first set's images of either model are from
    them as a whole (CMMD)"""
    embedding: str | None = None
    """the scorer whose embeddings of images these two are measured in; default: the first of type clip"""
    resamples: Positive = 10_000
    """of the paired bootstrap"""
    batch: Positive = 64
    """images drawn at a time; fewer where memory runs out"""

    @property
    def first_set(self) -> str:
        """The name of the verdict's set."""
        return next(iter(self.sets))


class Report(Section):
    """Stage 8: the report."""

    examples: Positive = 12
    """images a gallery"""
    checks: tuple[SourcePath, ...] = ()
    """files that `agfsync judge PAIRS --out` has written: the report warns of a judge with more than a third of the
    weight that is near a coin toss on one of these pair sets"""


class Engine(Section):
    """The place where images are drawn and judged. It affects no result: a run may continue on another engine.

    In a recipe `engine: ray` is short for `engine: {type: ray}`.
    """

    type: Literal["local", "ray"] = "local"
    """local: this machine; ray: a Ray cluster (pip install 'agfsync[ray]'), whose machines all have the run folder at
    the same place"""
    workers: Positive | Literal["cores"] | None = None
    """processes, each with a model of its own. Default: one for each accelerator of the machine or cluster. Where there
    is none, local works in its own process, and ray in one worker. cores: without an accelerator, one for each core of
    this machine, 8 at most"""
    accelerators: float | None = Field(default=None, ge=0)
    """of each worker on Ray: 0.5 lets two of them share one. Default: 1, or 0 on a cluster without any"""
    address: str | None = None
    """of the Ray cluster, as HOST:PORT. Default: the environment's RAY_ADDRESS; without it Ray is started here"""

    @model_validator(mode="after")
    def _cores_are_local(self) -> Self:
        if self.workers == "cores" and self.type != "local":
            raise ValueError(f"workers: cores counts this machine's cores: with {self.type} give a number")
        return self

    @field_validator("accelerators")
    @classmethod
    def _whole_or_shared(cls, accelerators: float | None) -> float | None:
        if accelerators is not None and accelerators > 1 and not accelerators.is_integer():
            raise ValueError("more than one accelerator is a whole number of them")
        return accelerators


class Recipe(Section):
    """A complete run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    failure_budget: Share = 0.05
    """share of a stage's items that may be skipped before the run stops"""
    engine: Engine = Engine()
    model: ModelOfType = StableDiffusionSettings()
    scorers: dict[str, ScorerOfType] = SHAPES_SCORERS
    """every scorer of the run, under names of your own"""
    captions: Captions = Captions()
    questions: Questions = Questions()
    candidates: Candidates = Candidates()
    scores: Scores = Scores()
    pairs: Pairs = Pairs()
    reward: Reward | None = None
    """absent: no reward model is trained"""
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    report: Report = Report()
    rounds: Rounds | None = None
    """absent: a single one"""
    start: Start | None = None
    """absent: the model draws the candidates, and the training starts from it"""

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, engine: Any) -> Any:
        return {"type": engine} if isinstance(engine, str) else engine

    @classmethod
    def load(cls, source: str, overrides: Sequence[str] = ()) -> "Recipe":
        """Return the shipped recipe or the recipe file `source`, with `overrides` as on the command line.

        >>> Recipe.load("shapes", ["training.steps=7"]).training.steps
        7

        Raises:
            RecipeError: there is no such recipe, or a key or value is wrong; the message says which and where.
        """
        from agfsync.recipe.reading import resolve_recipe

        return resolve_recipe(source, overrides)

    def with_(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with `changes`: dotted keys and their values.

        >>> Recipe().with_({"training.steps": 7, "scorers.mine": {"type": "clip", "path": "a/b"}}).training.steps
        7

        Raises:
            RecipeError: a key or value is wrong; the message says which and where.
        """
        from agfsync.recipe.reading import change_recipe

        return change_recipe(self, changes)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        check_agreement(self)
        return self

    @property
    def score_sources(self) -> dict[str, str]:
        """The names that a score may have, each with its scorer's: NAME, and NAME.ASPECT of an annotator."""
        aspects = {f"{name}.{aspect}": name for name, each in self.scorers.items() for aspect in each.aspect_names}
        return {name: name for name in self.scorers} | aspects

    @property
    def drawing_models(self) -> tuple[ModelSettings, ...]:
        """The models that draw candidates, the one that is aligned first."""
        return (self.model, *self.candidates.beside.values())

    @property
    def reward_weights(self) -> dict[str, float]:
        """The weights of the scorers by which the method rates images; default: those that choose the pairs."""
        return getattr(self.training.method, "reward", None) or self.pairs.weights

    @property
    def teachers(self) -> tuple[str, ...]:
        """The scorers that the method learns from, directly or by the pairs; none for the pairs of a source."""
        method = self.training.method
        learns = self.pairs.source is None if method.needs == "pairs" else hasattr(method, "reward")
        chosen = self.reward_weights if learns else {}
        return tuple(dict.fromkeys([*(name for name, weight in chosen.items() if weight), *method.scorers]))

    @property
    def candidate_scorers(self) -> dict[str, ScorerSettings]:
        """The scorers of the candidates, in the recipe's order."""
        method = self.training.method
        rated = {**self.reward_weights, **dict.fromkeys(method.scorers, 1.0)}
        needed = rated if method.needs == "scores" else self.pairs.weights
        names = needed if self.scores.by is None else self.scores.by
        asked = {self.score_sources[name] for name in names}
        return {name: settings for name, settings in self.scorers.items() if name in asked}

    def find_scorer(self, score: str) -> ScorerSettings:
        """Return the settings of the scorer that gives the scores called `score`."""
        return self.scorers[self.score_sources[score]]

    @property
    def candidate_scores(self) -> list[str]:
        """The names of the candidates' scores, an annotator's aspects before their mean."""
        scorers = self.candidate_scorers.items()
        return [each for name, of in scorers for each in (*(f"{name}.{aspect}" for aspect in of.aspect_names), name)]

    def uses_own_reward(self, stage: str) -> bool:
        """Return True if `stage`, training or evaluation, asks the reward model that the run trains."""
        draws = stage == "training" and self.training.method.needs == "captions"
        asked = self.evaluation_scorers if stage == "evaluation" else self.reward_weights if draws else ()
        return any(self.find_scorer(name).is_own for name in asked)

    @property
    def reward_judges(self) -> dict[str, ScorerSettings]:
        """The scorers of single images that the reward model's accuracy is compared with, in the recipe's order."""
        by = None if self.reward is None else self.reward.by
        single = {name: each for name, each in self.scorers.items() if not (each.is_own or each.aspect_names)}
        return {name: each for name, each in single.items() if by is None or name in by}

    def set_scorers(self, name: str) -> dict[str, ScorerSettings]:
        """Return the scorers of an evaluation set, in the recipe's order; without annotators, which judge no image."""
        of_set = self.evaluation.sets[name]
        names = of_set.by if of_set.pairwise is None else ()
        single = {each: settings for each, settings in self.scorers.items() if not settings.aspect_names}
        return {each: settings for each, settings in single.items() if names is None or each in names}

    @property
    def embedding(self) -> str | None:
        """The scorer whose embeddings the evaluation measures; None if it measures none."""
        settings = self.evaluation
        if settings.per_caption == 1 and settings.reference is None:
            return None
        return settings.embedding or next((name for name, each in self.scorers.items() if each.type == "clip"), None)

    @property
    def evaluation_scorers(self) -> dict[str, ScorerSettings]:
        """The scorers of all evaluation sets."""
        used = {each for name in self.evaluation.sets for each in self.set_scorers(name)}
        return {each: settings for each, settings in self.scorers.items() if each in used}

    @property
    def steering(self) -> dict[str, Any] | None:
        """The settings of a training-free method with its parser chosen, None if the method isn't one."""
        method = self.training.method
        if method.trains != "nothing" or method.type in ("none", "given"):
            return None
        settings = method.model_dump(mode="json")
        if isinstance(method, SteeringSettings):
            parser = method.parser.choose(embedded=self.model.path.startswith(catalog.EMBEDDED))
            settings["parser"] = parser.model_dump(mode="json")
        return settings

    @property
    def given(self) -> GivenSettings | None:
        """The settings of a comparison of two models, None if the run isn't one."""
        method = self.training.method
        return method if isinstance(method, GivenSettings) else None

    @property
    def evaluated_models(self) -> dict[str, ModelSettings]:
        """The settings that the evaluation draws with, before what a training changes, by "base" and "aligned"."""
        return {"base": self.model, "aligned": self.model if self.given is None else self.given.model}

    @property
    def model_names(self) -> dict[str, str]:
        """The names that the report gives to the models "base" and "aligned"."""
        names = ("base", "aligned") if self.given is None else self.given.names
        return dict(zip(("base", "aligned"), names, strict=True))

    @property
    def reward_seed(self) -> int:
        """The seed of the reward model's training; default: the run's."""
        return self.seed if self.reward is None or self.reward.seed is None else self.reward.seed

    @property
    def training_seed(self) -> int:
        """The seed of the training; default: the run's."""
        return self.seed if self.training.seed is None else self.training.seed
