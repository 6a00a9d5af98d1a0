"""Measure the memory of a process that trains a random network of 200 M weights by DPO, whole or in shards.

    python benchmarks/sharding.py [unet|transformer]                                       # one process
    accelerate launch --multi_gpu --num_processes 2 benchmarks/sharding.py [...]           # each with the whole network
    accelerate launch --multi_gpu --num_processes 2 benchmarks/sharding.py [...] --fsdp    # each with its part

With OMP_NUM_THREADS=1 two processes train on the CPU, and with MALLOC_MMAP_THRESHOLD_=65536 what is freed counts no
more: by itself glibc keeps it. Printed are what the first process keeps (fp32 weights, AdamW's moments and the frozen
copy), and the peak of its memory in the steps, without the libraries.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from agfsync.models.dtypes import describe_cpu
from agfsync.models.schedules import DiffusionSchedule, FlowSchedule
from agfsync.training.batches import EncodedPairs
from agfsync.training.checkpoints import iterate_tensors
from agfsync.training.loop import train
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.peak_memory import read_peak_memory, reset_peak_memory
from agfsync.training.processes import join_processes
from agfsync.training.reference import FrozenCopy
from agfsync.training.state import TrainingState

CPU, TOKENS, SIDE, PAIRS = torch.device("cpu"), 16, 16, 4


class RandomModel:
    """An untrained network without text encoders and VAE."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self.device, self.kind, self.network = CPU, kind, build_network(kind)
        self.schedule: Any = (
            DiffusionSchedule.from_scheduler(DDPMScheduler())
            if kind == "unet"
            else FlowSchedule(FlowMatchEulerDiscreteScheduler())
        )

    def predict(self, network: nn.Module, noisy_BCHW: Tensor, times_B: Tensor, conditioning: Any) -> Tensor:
        timesteps_B = times_B if self.kind == "unet" else 1000 * times_B
        predicted: Tensor = network(noisy_BCHW, timestep=timesteps_B, **conditioning).sample
        return predicted


def build_network(kind: str) -> Any:
    if kind == "unet":
        return UNet2DConditionModel(
            sample_size=SIDE, block_out_channels=(160, 320, 640, 640), cross_attention_dim=768, layers_per_block=2
        )
    return SD3Transformer2DModel(
        sample_size=SIDE,
        num_layers=12,
        attention_head_dim=64,
        num_attention_heads=12,
        joint_attention_dim=768,
        caption_projection_dim=768,
        pooled_projection_dim=768,
        pos_embed_max_size=SIDE,
    )


def make_pairs(kind: str) -> EncodedPairs:
    rows = torch.arange(PAIRS)
    conditioning = {"encoder_hidden_states": torch.randn(PAIRS, TOKENS, 768)}
    if kind == "transformer":
        conditioning["pooled_projections"] = torch.randn(PAIRS, 768)
    latents = torch.randn(2 * PAIRS, 4 if kind == "unet" else 16, SIDE, SIDE)
    return EncodedPairs(latents, conditioning, rows, rows + PAIRS, rows)


class Forgetful:
    """Checkpoints that keep nothing but the state."""

    state: TrainingState | None = None

    def restore(self, state: TrainingState) -> int:
        self.state = state
        reset_peak_memory(CPU)  # the network is sharded by now
        return 0

    def save(self, step: int, state: TrainingState) -> None:
        for _ in iterate_tensors(state):
            pass


def count_bytes(tensors: Any) -> int:
    """Return the bytes of the tensors that lie in this process."""
    here = [each.to_local() if isinstance(each, DTensor) else each for each in tensors]
    return sum(each.numel() * each.element_size() for each in here)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=("unet", "transformer"), default="transformer")
    parser.add_argument("--fsdp", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    checkpoints: Any = Forgetful()
    peaks: list[int] = []
    with join_processes(CPU) as processes, tempfile.TemporaryDirectory() as folder:
        reset_peak_memory(CPU)
        libraries = read_peak_memory(CPU) or 0
        model: Any = RandomModel(options.kind)
        count = sum(each.numel() for each in model.network.parameters())
        plan = TrainingPlan(
            steps=3,
            batch=PAIRS,
            learning_rate=1e-5,
            seed=0,
            precision=options.precision,
            checkpoint_every=100,
            fsdp=options.fsdp,
        )
        reference = FrozenCopy(model.network, plan.precision)
        objective = DiffusionDPO(100.0).objective(make_pairs(options.kind), plan)

        def note(line: Any) -> None:
            peaks.append(read_peak_memory(CPU) or 0)

        log = Path(folder) / "metrics.jsonl"
        train(Actor(model, reference, plan.precision), objective, plan, checkpoints, log, note, processes=processes)
    state = checkpoints.state
    moments = [each for of in state.optimizer.state.values() for each in of.values()]
    kept = count_bytes([*state.parameters.values(), *moments, *reference._network.parameters()])
    if processes.is_first:
        way = "in shards" if options.fsdp and processes.count > 1 else "whole"
        print(
            f"{options.kind} of {count / 1e6:.0f} M weights, {options.precision}, {way}, {processes.count} processes: "
            f"keeps {kept / 1e9:.2f} GB, peak {(peaks[-1] - libraries) / 1e9:.2f} GB; {describe_cpu()}"
        )


if __name__ == "__main__":
    main()
