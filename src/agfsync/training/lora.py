"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters on the attention layers, through peft."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.models.architecture import ATTENTION


def add_adapters(network: nn.Module, rank: int, alpha: float, seed: int, targets: Sequence[str] = ATTENTION) -> None:
    """Freeze `network` and add adapters of strength alpha / rank to the layers with a name that ends in a target.

    The adapters are float32 for any dtype of the network, since small updates vanish in bf16. Untrained adapters don't
    change the predictions. Their initial weights depend on `seed`.

    Raises:
        ModelError: the network has no such layers.
    """
    network.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft warns that it can't merge adapters into torchao's weights, but nothing merges them.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, network)
        except ValueError as failure:
            raise ModelError(f"no LoRA fits this model: it has no layers called {', '.join(targets)}") from failure
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def continue_adapters(network: nn.Module, weights: Mapping[str, Tensor], rank: int, alpha: float) -> None:
    """Replace the weights of the adapters by the `weights` of a trained LoRA, as `save_adapter` has written them.

    Raises:
        ModelError: the weights are for another model, rank or layers.
    """
    named = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    own = get_peft_model_state_dict(network)
    if {name: tensor.shape for name, tensor in own.items()} != {name: t.shape for name, t in named.items()}:
        raise ModelError(
            f"the LoRA to train further fits no LoRA of rank {rank} of this model: train it from the start"
        )
    scaled = {name: tensor / (alpha / rank) if "lora_B" in name else tensor for name, tensor in named.items()}
    set_peft_model_state_dict(network, scaled)


@contextmanager
def adapters_off(network: nn.Module) -> Iterator[None]:
    """Disable the adapters of `network` within the context, in which it equals the base to the last bit."""
    adapters = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for adapter in adapters:
        adapter.enable_adapters(False)
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.enable_adapters(True)


def adapter_weights(network: nn.Module, rank: int, alpha: float) -> Mapping[str, Tensor]:
    """Return the adapters' weights by peft's names, multiplied by alpha / rank.

    Some programs read alpha and others don't, and not all read it from the same place. A file that doesn't need it has
    the same strength in all of them.
    """
    weights: Mapping[str, Tensor] = get_peft_model_state_dict(network)
    return {n: (t * (alpha / rank) if "lora_B" in n else t).contiguous() for n, t in weights.items()}
