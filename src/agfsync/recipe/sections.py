"""The sections of a recipe: one model a stage, in stage order; the only place with defaults."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
"""auto: the fastest on the device, chosen when the run is made and written into its recipe.yaml."""


def _whole(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as failure:
        raise ValueError("there is no such home folder") from failure


Source = Annotated[str, AfterValidator(_whole)]
"""A file or folder; kept whole, so that a run can be gone on with from anywhere."""


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are frozen and say what they are for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _asks_a_model(tree: Any) -> bool:
    return isinstance(tree, dict) and tree.get("model") is not None


class Prices(Section):
    """Of a million tokens, in any currency."""

    input: float = Field(default=0.0, ge=0)
    output: float = Field(default=0.0, ge=0)


class Server(Section):
    """An OpenAI-compatible server. Its key is never part of a recipe: the environment's OPENAI_API_KEY holds it."""

    base_url: str | None = None
    """default: the environment's OPENAI_BASE_URL, else OpenAI's own server"""
    concurrency: Positive = 8
    """requests at a time"""
    timeout: float = Field(default=120.0, gt=0)
    """seconds to wait for a reply"""
    reply_tokens: Positive = 256
    """the most tokens of one reply: a judge's answer is one word, but a model that thinks first needs more"""
    retries: int = Field(default=6, ge=0)
    """times that a request is repeated in all, be it refused for now, failed, or answered with what can't be read"""
    prices: Prices = Prices()
    max_cost: float | None = Field(default=None, gt=0)
    """what a stage may cost by these prices in this run, all times that it was begun; then it stops"""
    max_tokens_total: Positive | None = None
    """how many tokens, sent and received, a stage may take in this run, all times that it was begun; then it stops"""

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, url: str | None) -> str | None:
        if url and ("@" in url or "?" in url):
            raise PydanticCustomError("secret", "leave credentials out of an address: OPENAI_API_KEY is their place")
        return url

    @model_validator(mode="after")
    def _cap_can_be_held(self) -> Self:
        if self.max_cost is not None and not (self.prices.input or self.prices.output):
            raise ValueError("max_cost needs prices: give prices.input and prices.output, of a million tokens")
        return self


class LanguageModel(Server):
    """A language model behind such a server, for the writer `openai`."""

    model: str = Field(default_factory=lambda: os.environ.get("OPENAI_MODEL", ""), validate_default=True)
    """the server's name for it; default: the environment's OPENAI_MODEL"""
    temperature: float = Field(default=1.0, ge=0, le=2)
    structured: bool = True
    """ask for JSON by its schema; a server that refuses that is asked without, whatever stands here"""
    reply_tokens: Positive = 8192
    """the most tokens of one reply; a model that thinks first needs more"""

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        if not model:
            raise ValueError("name a language model here, or in the environment's OPENAI_MODEL")
        return model


class Captions(Section):
    """Stage 1: what is drawn."""

    writer: str = "shapes"
    model: LanguageModel | None = None
    """of a writer that asks one"""
    source: Source | None = None
    """a file or folder of prompts, in the writer's place; where it has questions on a prompt, they are asked"""
    split: str = ""
    """of a source that is a folder with several, such as "validation", or "all" of them. Default: its train split"""
    count: Positive = 128
    """captions to make pairs of, spread evenly over the writer's categories; a pair set brings its own"""
    held_out: int = Field(default=200, ge=0)
    """captions kept apart for the evaluation"""
    similarity: float = Field(default=1.0, gt=0, le=1)
    """from which on two of the writer's captions of a category are too alike (Jaccard of n-grams); 1: only if they are
    the same. With a language model 0.7 unless said otherwise"""

    words: tuple[Positive, Positive] | None = None
    """the fewest and the most words of a caption that a writer writes; others are left out and counted. Absent: any
    number. With a language model [4, 60] unless said otherwise"""

    @field_validator("words")
    @classmethod
    def _from_fewer_to_more(cls, words: tuple[int, int] | None) -> tuple[int, int] | None:
        if words is not None and words[0] > words[1]:
            raise ValueError(f"the fewest words come first, then the most: [{words[1]}, {words[0]}]")
        return words

    @model_validator(mode="before")
    @classmethod
    def _model_repeats_itself(cls, tree: Any) -> Any:
        return {"similarity": 0.7, "words": [4, 60]} | tree if _asks_a_model(tree) else tree


class Questions(Section):
    """Stage 2: yes/no questions on each caption."""

    writer: str = "shapes"
    """asks where the captions' file has no question on a caption"""
    model: LanguageModel | None = None
    """of a writer that asks one"""
    rounds: Positive = 1
    """times each caption is processed; repeated questions are dropped. With a language model 6, as in the paper, unless
    said otherwise"""
    minimum: Positive = 1
    """a caption with fewer valid questions is skipped; the authors' code takes 5"""
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
        return {"rounds": 6, "similarity": 0.8} | tree if _asks_a_model(tree) else tree

    @model_validator(mode="after")
    def _room_for_the_minimum(self) -> Self:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}: no caption could have both")
        return self


class SamplingLora(Section):
    """A LoRA that pictures are drawn with, such as LCM's. It is no part of what is trained."""

    path: str
    """a .safetensors file, a folder with one in it, or a hub id"""
    file: str | None = None
    """which of a folder's or hub id's files; default: pytorch_lora_weights.safetensors, else the only one"""
    strength: float = 1.0
    partial: bool = False
    """draw also where only some of its modules fit the model; the others are counted in a line"""


class RefinerSettings(Section):
    """A second model that takes the last steps of drawing (stable-diffusion-xl). It is no part of what is trained."""

    model: str = "stabilityai/stable-diffusion-xl-refiner-1.0"
    revision: str | None = None
    from_step: Positive = 40
    """the paper's, of 50"""


class PartSettings(Section):
    """A network of a pipeline, from elsewhere. In a recipe `vae: PLACE` is short for `vae: {model: PLACE}`."""

    model: str
    """a folder, a hub id, or a .safetensors file"""
    revision: str | None = None


def _part_by_place(tree: Any) -> Any:
    return {"model": tree} if isinstance(tree, str) else tree


Part = Annotated[PartSettings | None, BeforeValidator(_part_by_place)]


class GeneratorSettings(Section):
    """The diffusion model that is aligned, and how it samples."""

    type: str = "stable-diffusion"
    model: str = "embedded:generator"
    """a folder, a hub id, a .safetensors file, or embedded:NAME"""
    config: str | None = None
    """of a single file: a folder or hub id of a pipeline with its configuration and tokenizers. Default: those of the
    known model that it is like, fetched from the hub; for SD 2.x that is 2.1's at 768 pixels"""
    revision: str | None = None
    variant: str | None = None
    """of the weights, such as fp16. Default: those without a variant, or the only one there is"""
    vae: Part = None
    """in place of the model's own, or of that which a single file lacks"""
    unet: Part = None
    """in place of the model's own (stable-diffusion, stable-diffusion-xl)"""
    transformer: Part = None
    """in place of the model's own (stable-diffusion-3, flux)"""
    loras: tuple[SamplingLora, ...] = ()
    """added to the model's weights, for drawing only"""
    steps: Positive = 50
    guidance: float = Field(default=7.5, ge=0)
    """classifier-free. With flux that which is built into the model, usually 3.5; schnell has none and takes 1"""
    negative_prompt: str = ""
    """what guidance leads away from"""
    refiner: RefinerSettings | None = None
    height: Positive | None = None
    width: Positive | None = None
    scheduler: Literal["model", "ddim", "ddpm", "dpm++", "euler", "lcm"] = "model"
    """model: the one that the model was saved with"""
    clip_skip: Positive | None = None
    """layers of the text encoder that are left out, as diffusers counts them: 1 reads the last but one
    (stable-diffusion) or the last but two (stable-diffusion-xl). What other programs call clip skip 2 is 1 here"""
    dtype: Dtype = "auto"
    device: str = "auto"


class Candidates(Section):
    """Stage 3: N pictures for each caption (Eq. 1)."""

    generator: GeneratorSettings = GeneratorSettings()
    beside: dict[str, GeneratorSettings] = {}
    """other generators that draw every caption as well, under names of your own; they are no part of what is aligned"""
    per_caption: int = Field(default=8, ge=2)
    """pictures by each generator; drawn together, or where memory runs out in parts"""
    embedding_noise: float = Field(default=0.1, ge=0)
    """sigma of the noise on the text embedding"""

    @property
    def generators(self) -> tuple[GeneratorSettings, ...]:
        """All that draw, the one that is aligned first."""
        return (self.generator, *self.beside.values())


class ScorerSettings(Section):
    """A judge: its type in the catalog, its weights, and settings of its own."""

    type: str
    model: str
    head: str | None = None
    """a small network on top of the model's embedding (aesthetic): a folder, a hub id, embedded:NAME or a safetensors
    file"""
    weights: str | None = None
    """what takes the place of the model's own weights (clip, pickscore, hpsv2, imagereward), given like a head"""
    template: str | None = None
    """how a question is put to a model (vqa), with {} in its place, such as "Question: {} Short answer:". Default: the
    model's own, or that of its kind"""
    revision: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    server: Server | None = None
    """of a judge behind one (vqa-openai), whose `model` is the server's name for it"""

    @field_validator("template")
    @classmethod
    def _one_place(cls, template: str | None) -> str | None:
        if template is not None and template.count("{}") + template.count("{question}") != 1:
            raise ValueError("a template has one {} where the question goes")
        return template


class Scores(Section):
    """Stage 4: every scorer on every candidate (Eq. 2 to 4)."""

    scorers: dict[str, ScorerSettings] = {
        "vqa": ScorerSettings(type="vqa", model="embedded:vqa"),
        "clip": ScorerSettings(type="clip", model="embedded:clip"),
        "aesthetic": ScorerSettings(type="aesthetic", model="embedded:clip", head="embedded:aesthetic"),
    }
    batch: Positive = 64
    """candidates scored at a time; fewer where memory runs out"""


class Pairs(Section):
    """Stage 5: the best and the worst candidate of each caption (Eq. 5 to 7)."""

    source: Source | None = None
    """a pair set: its pictures are the candidates and its preferences the pairs, nothing is drawn, scored or weighed"""
    split: str = ""
    """of a pair set that is a folder with several, such as "validation", or "all" of them. Default: its train split"""
    repeats: Literal["majority", "all"] = "majority"
    """several judgements of the same two pictures in a pair set: one pair, by their majority; or a pair of each"""
    weights: dict[str, float] = {"vqa": 0.35, "clip": 0.55, "aesthetic": 0.10}
    minimum_margin: float = Field(default=0.0, ge=0)
    """winner and loser must lie further apart than this, on the weighted sum's 0..100"""


class LoraSettings(Section):
    rank: Positive = 16
    alpha: float | None = None
    """default: the rank, so that every program reads the file with the same strength"""


class Method(Section):
    """The alignment method."""

    type: str = "dpo"
    """the loss on the margin: dpo (log-sigmoid), ipo (a square about one half), hinge"""
    beta: float = Field(default=2000.0, gt=0)
    lora: LoraSettings | None = None
    """absent: the whole denoiser is trained"""


class Training(Section):
    """Stage 6: alignment on the pairs (Eq. 8)."""

    method: Method = Method()
    steps: Positive = 1000
    batch: Positive = 128
    """pairs a step, of all processes together"""
    learning_rate: float = Field(default=5e-7, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    """steps over which the learning rate rises to its full value"""
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    precision: Dtype = "auto"
    """in which numbers the networks multiply; the trained weights stay fp32. fp16 scales its loss, and needs an
    accelerator"""
    checkpoint_every: Positive = 50
    """steps"""
    accumulate: Positive = 1
    """parts in which a step's pairs go through the networks: more of them need less memory, for the same result; there
    are more by themselves where memory runs out, and several processes share them"""
    gradient_checkpointing: bool = False
    """compute activations twice and keep few: less memory, more time, the same result"""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its moments in a quarter of the memory; it needs the package bitsandbytes"""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """decay of the weights' moving average, such as 0.9999; with it the average is the result"""
    caption_dropout: Share = 0.0
    """share of the pairs of a step that are trained without their caption, winner and loser alike"""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """where each step's figures go beside the run's own log; each is a package to install"""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """weigh each pair by its timestep, by min-SNR with this gamma (its paper's: 5); absent: all alike, as in DPO"""
    loss_space: Literal["model", "epsilon"] = "model"
    """whose errors Eq. 8 takes: of what the network predicts, or of the noise, as in the paper; they differ for models
    that predict v, whose errors are the noise's times 1 / alpha-bar. With min_snr_gamma both are the same"""

    @model_validator(mode="after")
    def _no_empty_part(self) -> "Training":
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate splits the {self.batch} pairs of training.batch into {self.accumulate} parts")
        return self


class Evaluation(Section):
    """Stage 7: base against aligned on the held-out captions, same seeds."""

    judges: dict[str, ScorerSettings] = {}
    """judges beside the scorers above, which nothing trains or selects on"""
    resamples: Positive = 10_000
    """of the paired bootstrap"""
    batch: Positive = 64
    """pictures drawn at a time; fewer where memory runs out"""


class Report(Section):
    """Stage 8."""

    examples: Positive = 12
    """pictures a gallery"""


class Engine(Section):
    """Where pictures are drawn and judged. It shapes no result: a run may be gone on with on another.

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
    captions: Captions = Captions()
    questions: Questions = Questions()
    candidates: Candidates = Candidates()
    scores: Scores = Scores()
    pairs: Pairs = Pairs()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    report: Report = Report()

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, engine: Any) -> Any:
        return {"type": engine} if isinstance(engine, str) else engine

    @model_validator(mode="after")
    def _names_fit(self) -> "Recipe":
        for name in self.pairs.weights:
            if name not in self.scores.scorers:
                there = ", ".join(self.scores.scorers)
                raise ValueError(f"pairs.weights.{name} weighs no scorer: scores.scorers has {there}")
        for name in self.evaluation.judges:
            if name in self.scores.scorers:
                raise ValueError(f"evaluation.judges.{name} has a scorer's name: call it otherwise")
        if not any(self.pairs.weights.values()):
            raise ValueError("pairs.weights are all 0: give at least one scorer a weight")
        return self
