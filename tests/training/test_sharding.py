"""Networks that are trained in shards by two real processes on the CPU, which communicate through gloo."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file
from sharded import Job, in_folder, train_in_processes
from torch import Tensor

from agfsync.errors import RecipeError
from agfsync.recipe import check_recipe
from agfsync.training.methods.best import Best
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.kto import DiffusionKTO
from agfsync.training.objective import TrainingPlan
from agfsync.training.sharding import check_sharding, gather_tensor, list_blocks, shard_like

pytestmark = pytest.mark.long

PLAN = TrainingPlan(
    steps=4,
    batch=4,
    learning_rate=1e-3,
    seed=11,
    precision="fp32",
    checkpoint_every=2,
    max_gradient_norm=0.05,
    caption_dropout=0.3,
    weight_decay=0.0,
)
METHODS = {"dpo": DiffusionDPO(100.0), "best": Best({"red": 1.0}), "kto": DiffusionKTO({"red": 1.0}, 100.0)}
PARTS = {"stable-diffusion": "unet", "stable-diffusion-3": "transformer"}


@pytest.fixture
def job(tiny_generator: Path, tiny_sd3_generator: Path, tmp_path: Path) -> Callable[..., Job]:
    """A training in one process; the arguments after the first two change its plan."""
    paths = {"stable-diffusion": tiny_generator, "stable-diffusion-3": tiny_sd3_generator}

    def make(kind: str, method: str, **changes: Any) -> Job:
        whole = Job(kind, paths[kind], tmp_path, METHODS[method], PLAN)
        return in_folder(whole, tmp_path / "one", **changes)

    return make


def lines(job: Job) -> list[dict[str, float]]:
    """The log without its times."""
    text = (job.folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in text]


def weights(job: Job) -> dict[str, Tensor]:
    return load_file(job.folder / "model" / PARTS[job.kind] / "diffusion_pytorch_model.safetensors")


def files(job: Job) -> list[str]:
    return sorted(str(path.relative_to(job.folder)) for path in (job.folder / "model").rglob("*"))


@pytest.mark.parametrize(
    ("kind", "method", "changes"),
    [
        ("stable-diffusion", "dpo", {"ema": 0.9}),
        ("stable-diffusion", "best", {"accumulate": 4}),
        ("stable-diffusion-3", "dpo", {"gradient_checkpointing": True}),
        ("stable-diffusion-3", "best", {}),
        ("stable-diffusion-3", "kto", {}),
    ],
)
def test_two_processes_that_share_the_network_learn_what_one_does(
    job: Callable[..., Job], tmp_path: Path, kind: str, method: str, changes: dict[str, Any]
) -> None:
    one = job(kind, method, **changes)
    two = in_folder(one, tmp_path / "two", fsdp=True)
    (alone,), shared = [one.work()], train_in_processes(two)
    assert len(lines(one)) == len(lines(two)) == PLAN.steps
    for here, there in zip(lines(one), lines(two), strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-5), "the losses, and the norm of all parts' gradients"
    assert min(line["gradient_norm"] for line in lines(one)) > PLAN.max_gradient_norm, "clipping is tested too"
    assert files(one) == files(two)
    trained, base = weights(one), load_file(one.path / PARTS[kind] / "diffusion_pytorch_model.safetensors")
    moved = max(float((trained[name] - base[name]).abs().max()) for name in base)
    assert moved > 1e-3
    for name, weight in weights(two).items():
        assert torch.allclose(weight, trained[name], atol=0.02 * moved), name
    config = json.loads((two.folder / "model" / PARTS[kind] / "config.json").read_text())
    assert config["_class_name"] in ("UNet2DConditionModel", "SD3Transformer2DModel")
    for name in ("weights", "moments", "average", "frozen"):
        held = [each[name] for each in shared]
        # Each layer's rows are divided, and the smallest layers have fewer rows than is even.
        assert max(held) <= 0.6 * alone[name], name
    assert alone["frozen"] == (0 if method == "best" else alone["total"])


def test_killed_and_resumed_it_ends_with_the_same_bits(job: Callable[..., Job], tmp_path: Path) -> None:
    whole = in_folder(job("stable-diffusion-3", "dpo"), tmp_path / "whole", fsdp=True, steps=5, ema=0.9)
    cut = in_folder(whole, tmp_path / "cut")
    assert train_in_processes(whole)
    assert train_in_processes(Job(cut.kind, cut.path, cut.folder, cut.method, cut.plan, kill_at=3)) == []
    assert not (cut.folder / "model").exists()
    assert train_in_processes(cut)
    assert lines(cut) == lines(whole)
    assert all(torch.equal(weight, weights(whole)[name]) for name, weight in weights(cut).items())


def test_a_training_in_shards_goes_on_in_one_process(job: Callable[..., Job], tmp_path: Path) -> None:
    one = job("stable-diffusion", "dpo")
    cut = in_folder(one, tmp_path / "cut", fsdp=True)
    one.work()
    assert train_in_processes(Job(cut.kind, cut.path, cut.folder, cut.method, cut.plan, kill_at=3)) == []
    cut.work()
    assert [line["loss"] for line in lines(cut)] == pytest.approx([line["loss"] for line in lines(one)], rel=1e-3)


@pytest.mark.parametrize("kind", PARTS)
def test_in_bf16_network_and_reference_round_alike(job: Callable[..., Job], tmp_path: Path, kind: str) -> None:
    two = in_folder(job(kind, "dpo"), tmp_path / "two", fsdp=True, precision="bf16")
    assert train_in_processes(two)
    assert lines(two)[0]["loss"] == pytest.approx(0.693147, abs=1e-6), "log 2: no prediction differs yet"
    assert {weight.dtype for weight in weights(two).values()} == {torch.float32}


def test_blocks_come_before_those_around_them() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        transformer = SD3Transformer2DModel(num_layers=3)
    for network in (unet, transformer):
        blocks = list_blocks(network)
        for place, block in enumerate(blocks):
            assert not {id(each) for each in block.modules()} & {id(each) for each in blocks[place + 1 :]}
    assert [type(block).__name__ for block in list_blocks(transformer)].count("JointTransformerBlock") == 3


def test_processes_that_would_wait_for_each_other_are_refused() -> None:
    check_sharding(8, 4)
    with pytest.raises(RecipeError, match="make training.batch 6 a multiple of 4"):
        check_sharding(6, 4)


def test_an_ordinary_tensor_is_whole() -> None:
    tensor = torch.ones(3)
    assert gather_tensor(tensor) is tensor and shard_like(tensor, torch.zeros(3)) is tensor


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lora": {"rank": 2}}, "leave out lora, or fsdp"),
        ({"method": {"type": "nft"}}, "the method nft: take one that learns from pairs or scores"),
        ({"optimizer": "adamw8bit"}, "set it to adamw"),
        ({"precision": "fp16"}, "set precision to bf16 or fp32"),
        ({"compile": True}, "leave out compile"),
        ({"watch": {"by": "oracle"}}, "a watch, which draws in the first process alone"),
    ],
)
def test_what_cannot_be_sharded_is_refused_in_the_recipe(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason) as caught:
        check_recipe({"training": {"fsdp": True} | changes}, "sharded")
    assert "\n" not in str(caught.value)
