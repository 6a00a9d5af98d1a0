"""The model card: what an aligned model is, rendered from plain facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

WHOLE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("PATH/TO/THIS/FOLDER", use_safetensors=True)
```"""
ADAPTER = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{base}", use_safetensors=True)
pipeline.load_lora_weights("PATH/TO/THIS/FOLDER", weight_name="{lora}")
```"""
KOHYA = "`{kohya}` is the same LoRA, of the same strength, as ComfyUI, AUTOMATIC1111 and others read it."


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model when its training ends. `base` is a hub id, or a name on its own; never a path."""

    name: str
    base: str
    base_is_public: bool
    """whether `base` is a hub id, which others can follow"""
    method: str
    pairs: int
    prompts: int
    weights: Mapping[str, float]
    """of the scorers that chose the pairs; none where the pairs were given"""
    settings: Mapping[str, Any]
    lora_files: tuple[str, str | None] | None
    """the PEFT and the kohya file, where there is one; None: the whole pipeline"""


def model_card(facts: Facts) -> str:
    """The README.md of the model's folder."""
    parts = [
        f"---\n{yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True)}---",
        f"# {facts.name}",
        f"{_cell(facts.base)}, {'with a LoRA that was' if facts.lora_files else 'its denoiser'} trained by "
        f"`{facts.method}` to prefer the better picture of {facts.pairs:,} pairs on {facts.prompts:,} prompts. "
        "Made by agfsync.",
        "## Use",
        _use(facts),
        "## Training",
        _table(("setting", "value"), facts.settings),
        _choice(facts),
        "## Evaluation",
        "Not part of this file, which is written before the model is judged. The folder of the run that this one lies "
        "in holds it: `report.html` compares the base and this model on prompts that it was not trained on, and "
        "`evaluation/` has every picture and score.",
        "## Licence",
        "That of the base model, whose weights it changes.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(facts: Facts) -> dict[str, object]:
    """What the hub reads."""
    base = {"base_model": facts.base} if facts.base_is_public else {}
    relation = {"base_model_relation": "adapter" if facts.lora_files else "finetune"} if base else {}
    tags = [facts.method, "ai-feedback", "agfsync", *(["lora"] if facts.lora_files else [])]
    return {"library_name": "diffusers", "pipeline_tag": "text-to-image", **base, **relation, "tags": tags}


def _use(facts: Facts) -> str:
    if facts.lora_files is None:
        return WHOLE
    lora, kohya = facts.lora_files
    base = facts.base if facts.base_is_public else f"PATH/TO/{facts.base}"
    use = ADAPTER.format(base=base, lora=lora)
    return f"{use}\n\n{KOHYA.format(kohya=kohya)}" if kohya else use


def _choice(facts: Facts) -> str:
    """How the pairs came about."""
    if not facts.weights:
        return "The pairs were given, as a file."
    says = "No person labelled a pair: of each prompt's candidates the best and the worst by the weighted sum of these "
    says += "scores made it."
    return f"{says}\n\n{_table(('score', 'weight'), facts.weights)}"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {_cell(name)} | {_cell(str(value))} |" for name, value in rows.items()])


def _cell(text: str) -> str:
    """What comes from a recipe must not end the cell that it stands in, nor become markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
