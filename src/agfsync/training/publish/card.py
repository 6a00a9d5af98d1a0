"""The model card of an aligned model, rendered from plain facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_PIPELINE_USE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("PATH/TO/THIS/FOLDER", use_safetensors=True)
```"""
_ADAPTER_USE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{base}", use_safetensors=True)
pipeline.load_lora_weights("PATH/TO/THIS/FOLDER", weight_name="{lora}")
```"""
_KOHYA_USE = "`{kohya}` is the same LoRA, of the same strength, as ComfyUI, AUTOMATIC1111 and others read it."


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The facts about a model at the end of its training. `base` is a hub id or a bare name, never a path."""

    name: str
    base: str
    base_is_public: bool
    """True if `base` is a hub id, which other people can open"""
    method: str
    trained_on: str
    """the end of the sentence "trained by METHOD ...", such as: on 5 images of 5 prompts"""
    choice: str
    """a description of what makes an image better than another; empty if the pairs were given"""
    settings: Mapping[str, Any]
    lora_files: tuple[str, str | None] | None
    """the names of the PEFT file and of the kohya file, if there is one; None if the folder is a whole pipeline"""


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """The facts about a reward model. `base` is a hub id or a bare name, never a path."""

    name: str
    base: str
    base_is_public: bool
    trained_on: str
    choice: str
    """a description of what makes an image better than another; empty if the pairs were given"""
    settings: Mapping[str, Any]
    accuracy: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """aspect -> judge -> figures"""


def render_reward_card(facts: RewardFacts) -> str:
    """Return the README.md of a reward model's folder."""
    base = {"base_model": facts.base, "base_model_relation": "finetune"} if facts.base_is_public else {}
    metadata = {**base, "tags": ["reward-model", "text-to-image", "ai-feedback", "agfsync"]}
    rows = {
        f"{judge}{f', {aspect}' if aspect else ''}": _format_accuracy(figures)
        for aspect, judges in facts.accuracy.items()
        for judge, figures in judges.items()
    }
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---",
        f"# {facts.name}, reward model",
        f"{_escape_cell(facts.base)} with a head, trained {facts.trained_on} to give the preferred image more. "
        "Made by agfsync.",
        "## Use",
        "In a recipe `scorers: {vp: {type: vp-score, path: PATH/TO/THIS/FOLDER}}`; `agfsync judge PAIRS --scorer "
        "vp=vp-score:PATH/TO/THIS/FOLDER` measures its accuracy on other pairs.",
        "## Accuracy",
        "On pairs of prompts that it was neither trained nor chosen on. Equal values count one half; pooled over "
        "pairs, with 95 % intervals over prompts.",
        _render_table(("judge", "accuracy"), rows),
        "## Training",
        _render_table(("setting", "value"), facts.settings),
        _render_choice(facts),
        "## Licence",
        "That of the base model, whose weights it changes.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _format_accuracy(figures: Mapping[str, Any]) -> str:
    if "accuracy" not in figures:
        return "no pair judged"
    interval = "" if figures["low"] is None else f" ({100 * figures['low']:.1f} to {100 * figures['high']:.1f})"
    return f"{100 * figures['accuracy']:.1f} %{interval} on {figures['pairs']:,} pairs"


def render_model_card(facts: CardFacts) -> str:
    """Return the README.md of the model's folder."""
    parts = [
        f"---\n{yaml.safe_dump(_make_metadata(facts), sort_keys=False, allow_unicode=True)}---",
        f"# {facts.name}",
        f"{_escape_cell(facts.base)}, {'with a LoRA that was' if facts.lora_files else 'its denoiser'} trained by "
        f"`{facts.method}` {facts.trained_on}. "
        "Made by agfsync.",
        "## Use",
        _render_use(facts),
        "## Training",
        _render_table(("setting", "value"), facts.settings),
        _render_choice(facts),
        "## Evaluation",
        "Not part of this file, which is written before the model is judged. The folder of the run that this one lies "
        "in holds it: `report.html` compares the base and this model on prompts that it was not trained on, and "
        "`evaluation/` has every image and score.",
        "## Licence",
        "That of the base model, whose weights it changes.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _make_metadata(facts: CardFacts) -> dict[str, object]:
    """Return the front matter, which the hub reads."""
    base = {"base_model": facts.base} if facts.base_is_public else {}
    relation = {"base_model_relation": "adapter" if facts.lora_files else "finetune"} if base else {}
    tags = [facts.method, "ai-feedback", "agfsync", *(["lora"] if facts.lora_files else [])]
    return {"library_name": "diffusers", "pipeline_tag": "text-to-image", **base, **relation, "tags": tags}


def _render_use(facts: CardFacts) -> str:
    """Return the code that loads the model."""
    if facts.lora_files is None:
        return _PIPELINE_USE
    lora, kohya = facts.lora_files
    base = facts.base if facts.base_is_public else f"PATH/TO/{facts.base}"
    use = _ADAPTER_USE.format(base=base, lora=lora)
    return f"{use}\n\n{_KOHYA_USE.format(kohya=kohya)}" if kohya else use


def _render_choice(facts: "CardFacts | RewardFacts") -> str:
    """Return the paragraph on how the pairs were chosen."""
    if not facts.choice:
        return "The pairs were given, as a file."
    return f"No person labelled an image. What makes one better: {_escape_cell(facts.choice)}."


def _render_table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {_escape_cell(name)} | {_escape_cell(str(value))} |" for name, value in rows.items()])


def _escape_cell(text: str) -> str:
    """Escape a text of the recipe, so that it neither ends its cell nor becomes markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
