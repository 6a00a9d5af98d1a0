"""LoRAs to draw with: each change in a file is added to its weights, or reported as left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.models.lora_deltas import _kind_of, decompose, magnitude_axis, scaled_delta
from agfsync.models.lora_files import Change, lora_file, read_changes
from agfsync.models.lora_names import Target, find_targets

Lora = Mapping[str, Any]
"""A LoRA to draw with: `path` (file, folder or hub id) and `strength`; optional: `file` (of several), `partial`."""
_NAMED = 3
"""the most modules in one message"""


def fuse_loras(pipeline: Any, loras: Sequence[Lora]) -> list[str]:
    """Add each of `loras` to the weights that it changes, times its strength; return remarks on what is left out.

    Text encoders are changed like the network. A DoRA with weights W' and strength s gives W + s (W' - W).

    Raises:
        ModelError: a LoRA doesn't exist, fits no module of this model, or, unless it is `partial`, doesn't fit all of
            the modules that it names.
    """
    remarks = []
    known = find_targets(pipeline.components) if loras else {}
    for lora in loras:
        changes = read_changes(lora_file(lora["path"], lora.get("file")))
        left_out = find_misfits(pipeline.components, known, changes)
        remarks += remark_misfits(lora, len(changes), left_out)
        for change in changes:
            if change.name not in left_out:
                _fuse_change(pipeline.components, known[change.name], change, lora["strength"])
    return remarks


def check_lora(parts: Mapping[str, Any], lora: Lora, file: Path) -> list[str]:
    """Return the remark on the changes in `file` that don't fit a pipeline's `parts`, which may be without data.

    Raises:
        ModelError: `fuse_loras` would raise it for this LoRA.
    """
    changes = read_changes(file)
    return remark_misfits(lora, len(changes), find_misfits(parts, find_targets(parts), changes))


def find_misfits(parts: Mapping[str, Any], known: Mapping[str, Target], changes: Sequence[Change]) -> dict[str, str]:
    """Return the names of the `changes` that don't fit a pipeline's `parts`, each with the reason.

    Only shapes are compared: nothing is changed, no product is computed, and `parts` may be without data.
    """
    reasons = {change.name: _describe_misfit(parts, known.get(change.name), change) for change in changes}
    return {name: reason for name, reason in reasons.items() if reason}


def _describe_misfit(parts: Mapping[str, Any], target: Target | None, change: Change) -> str:
    if change.unknown:
        return f"{change.unknown[0].rpartition('.')[2]} is of no kind that is read"
    if target is None:
        return "no such module"
    if _kind_of(frozenset(change.parts)) is None and (change.parts or change.magnitude is not None or not change.bias):
        return "tensors missing"
    try:
        weight, bias = _join_weights(parts, target, shapes_only=True)
        change_weight(weight, change, 1.0)
        change_bias(bias, change, 1.0)
    except (RuntimeError, ValueError):
        return "of another shape"
    return ""


def remark_misfits(lora: Lora, count: int, left_out: Mapping[str, str]) -> list[str]:
    """Return the remark on the modules, among `count`, that a LoRA leaves out; none if all of them fit.

    Raises:
        ModelError: no module fits, or some don't and the LoRA isn't `partial`.
    """
    if not left_out:
        return []
    path, fitting = lora["path"], count - len(left_out)
    some = ", ".join(f"{name} ({reason})" for name, reason in list(left_out.items())[:_NAMED])
    some += ", ..." if len(left_out) > _NAMED else ""
    if not fitting:
        raise ModelError(f"the LoRA {path} is made for another model: it changes nothing of this one; it has {some}")
    report = f"of the LoRA {path} {fitting} of {count} modules fit this model"
    if not lora.get("partial"):
        raise ModelError(
            f"{report}, and not {some}: take another, or set its `partial: true` to draw with those that do"
        )
    return [f"{report} and are drawn with; left out: {some}"]


def _fuse_change(parts: Mapping[str, Any], target: Target, change: Change, strength: float) -> None:
    weight, bias = _join_weights(parts, target)
    new_weight, new_bias = change_weight(weight, change, strength), change_bias(bias, change, strength)
    start = 0
    for module in _get_modules(parts, target):
        rows = slice(start, start + len(module.weight))
        start = rows.stop
        with torch.no_grad():
            module.weight.copy_(_swap_halves(new_weight, target)[rows])
            if new_bias is not None and module.bias is not None:
                module.bias.copy_(_swap_halves(new_bias, target)[rows])


def _get_modules(parts: Mapping[str, Any], target: Target) -> list[Any]:
    network: nn.Module = parts[target.part]
    return [network.get_submodule(path) for path in target.paths]


def _join_weights(parts: Mapping[str, Any], target: Target, shapes_only: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the modules' weights and biases, concatenated in the file's order; on "meta" with `shapes_only`."""
    modules = _get_modules(parts, target)
    weights = [module.weight for module in modules]
    biases = [bias for module in modules if (bias := getattr(module, "bias", None)) is not None]
    if shapes_only:
        # Created, not copied: the networks of the doctor have fake tensors, which don't mix with others.
        weights, biases = ([torch.empty(each.shape, device="meta") for each in some] for some in (weights, biases))
    weight = torch.cat([each.detach() for each in weights])
    bias = torch.cat([each.detach() for each in biases]) if len(biases) == len(modules) else None
    return _swap_halves(weight, target), None if bias is None else _swap_halves(bias, target)


def _swap_halves(rows: Tensor, target: Target) -> Tensor:
    return rows.roll(len(rows) // 2, 0) if target.swapped else rows


def change_weight(weight: Tensor, change: Change, strength: float) -> Tensor:
    """Return `weight` with `change` applied, in float32; unchanged at `strength` 0, as trained at 1.

    Raises:
        ValueError, RuntimeError: the shapes don't fit.
    """
    before = weight.float()
    if not change.parts:
        return before
    parts = {name: tensor.to(weight.device) for name, tensor in change.parts.items()}
    delta = scaled_delta(parts, change.alpha, change.rank, change.by_root)
    if len(delta) != len(before) or delta.numel() != before.numel():
        raise ValueError("another shape")
    delta = delta.reshape(before.shape)
    if change.magnitude is None:
        return before + strength * delta
    axis = magnitude_axis(change.magnitude, before)
    if axis is None:
        raise ValueError("another shape")
    after = decompose(before + delta, change.magnitude.to(before), axis)
    return before + strength * (after - before)


def change_bias(bias: Tensor | None, change: Change, strength: float) -> Tensor | None:
    """Return `bias` with `change` applied, in float32; None if it doesn't change a bias.

    Raises:
        ValueError: the module has no bias, or one of another shape.
    """
    if not change.bias:
        return None
    if bias is None or any(delta.shape != bias.shape for delta in change.bias.values()):
        raise ValueError("another shape")
    after = bias.float()
    for name, delta in change.bias.items():
        scale = 1.0
        if name == "lora_up_bias" and change.alpha is not None:
            rank = change.rank or len(change.parts["lora_down"])
            scale = change.alpha / (rank**0.5 if change.by_root else rank)
        after = after + strength * scale * delta.to(bias.device, torch.float32)
    return after
