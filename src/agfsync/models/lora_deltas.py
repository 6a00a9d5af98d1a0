"""The change of one weight by a LoRA, for each published kind: pure arithmetic, float32.

Kinds, with LyCORIS' names of their tensors (`lora_files` translates kohya's and peft's names):

    lora_up, lora_down, lora_mid          LoRA and LoCon: up down, or with mid as core the Tucker product
    hada_w1_a ... hada_w2_b, hada_t1, t2  LoHa: (w1_a w1_b) * (w2_a w2_b), elementwise
    lokr_w1, lokr_w2, or lokr_w1_a ...    LoKr: the Kronecker product of w1 and w2
    diff                                  the difference itself

Products are scaled by alpha / rank. DoRA (`dora_scale`) then sets the norms of the changed weight.
Sources: LoRA (arXiv:2106.09685), LyCORIS (arXiv:2309.14859), DoRA (arXiv:2402.09353).

Shapes: O outputs, I inputs, R rank; a convolution's kernel follows I.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

LoraTensors = Mapping[str, Tensor]
"""The tensors of one changed weight, by the names above."""
Delta = Callable[[LoraTensors], tuple[Tensor, int | None]]
"""tensors -> the unscaled difference, with the weight's number of elements, and the rank (None: it isn't scaled)"""


def multiply_tucker(core: Tensor, outputs_RO: Tensor, inputs_RI: Tensor) -> Tensor:
    """Return the product (O, I, ...) of a Tucker core (R, R, ...) with both of its factors."""
    return torch.einsum("ij...,io,jn->on...", core, outputs_RO, inputs_RI)


def lora_delta(parts: LoraTensors) -> tuple[Tensor, int]:
    """Return LoRA's product of up and down, and the rank: the number of rows of `lora_down`."""
    up, down = parts["lora_up"].flatten(1), parts["lora_down"]
    if "lora_mid" in parts:
        return multiply_tucker(parts["lora_mid"], up.T, down.flatten(1)), len(down)
    return up @ down.flatten(1), len(down)


def loha_delta(parts: LoraTensors) -> tuple[Tensor, int]:
    """Return LoHa's Hadamard product of two low-rank matrices, and the rank."""
    factors = [
        multiply_tucker(parts[f"hada_t{n}"], parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"])
        if f"hada_t{n}" in parts
        else parts[f"hada_w{n}_a"] @ parts[f"hada_w{n}_b"].flatten(1)
        for n in (1, 2)
    ]
    return factors[0] * factors[1], len(parts["hada_w1_b"])


def lokr_delta(parts: LoraTensors) -> tuple[Tensor, int | None]:
    """Return LoKr's Kronecker product, and the rank; None, so that it isn't scaled, if neither factor is decomposed."""
    left, left_rank = _lokr_factor(parts, "lokr_w1")
    right, right_rank = _lokr_factor(parts, "lokr_w2")
    for _ in range(right.dim() - left.dim()):
        left = left.unsqueeze(-1)
    return torch.kron(left.contiguous(), right.contiguous()), right_rank or left_rank


def _lokr_factor(parts: LoraTensors, name: str) -> tuple[Tensor, int | None]:
    if name in parts:
        return parts[name], None
    first, second = parts[f"{name}_a"], parts[f"{name}_b"]
    core = parts.get(name.replace("_w", "_t"))
    return (first @ second.flatten(1) if core is None else multiply_tucker(core, first, second)), len(second)


def full_delta(parts: LoraTensors) -> tuple[Tensor, None]:
    """Return the stored difference, which isn't scaled."""
    return parts["diff"], None


HADA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
LOKR = [
    (*a, *b) for a in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b")) for b in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
]
_KINDS: list[tuple[frozenset[str], frozenset[str], Delta]] = [
    (frozenset({"lora_up", "lora_down"}), frozenset({"lora_mid"}), lora_delta),
    (HADA, frozenset(), loha_delta),
    (HADA | {"hada_t1", "hada_t2"}, frozenset(), loha_delta),
    *((frozenset(names), frozenset({"lokr_t2"} if "lokr_w2_a" in names else ()), lokr_delta) for names in LOKR),
    (frozenset({"diff"}), frozenset(), full_delta),
]
"""the required tensors of a kind, its optional tensors, and its arithmetic"""


def _kind_of(names: frozenset[str]) -> Delta | None:
    """Return the arithmetic for tensors with these names; None if no kind has them, or some are missing."""
    fitting = (delta for needed, optional, delta in _KINDS if needed <= names <= needed | optional)
    return next(fitting, None)


def scaled_delta(parts: LoraTensors, alpha: float | None, rank: int | None = None, by_root: bool = False) -> Tensor:
    """Return the difference times alpha / rank; unscaled without `alpha`.

    The rank is by default that of the tensors. With `by_root`, alpha is divided by its root (rsLoRA, arXiv:2312.03732).

    Raises:
        ValueError: no kind has these tensors.
        RuntimeError: their shapes don't fit each other.
    """
    delta = _kind_of(frozenset(parts))
    if delta is None:
        raise ValueError(f"no kind of LoRA has the tensors {', '.join(sorted(parts))}")
    unscaled, own = delta({name: tensor.float() for name, tensor in parts.items()})
    rank = rank or own
    if alpha is None or rank is None:
        return unscaled
    return unscaled * (alpha / (rank**0.5 if by_root else rank))


def magnitude_axis(magnitude: Tensor, weight_OI: Tensor) -> int | None:
    """Return the axis of the weight that DoRA's magnitudes belong to, 0 (O) or 1 (I); None if they fit neither.

    LyCORIS stores (O, 1, ...) or (1, I, ...). Peft's (O), or (1, O, 1, 1) for a convolution, has been flattened to (O).
    """
    outputs, inputs = weight_OI.shape[:2]
    if magnitude.numel() == outputs and len(magnitude) == outputs:
        return 0
    return 1 if magnitude.numel() == inputs else None


def decompose(changed_OI: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """Return DoRA's weight: magnitude * changed / ||changed||, with one norm for each index of `axis`."""
    others = [dim for dim in range(changed_OI.dim()) if dim != axis]
    norms: Tensor = torch.linalg.vector_norm(changed_OI, dim=others, keepdim=True)
    floor = torch.finfo(changed_OI.dtype).eps
    return changed_OI * (magnitude.reshape(norms.shape) / norms.clamp_min(floor))
