"""The measurement at full size, on networks of a few thousand weights: nothing else here runs it before a GPU does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
STEPS = {"draws", "predicts", "decodes", "reads prompts", "trains a LoRA"}
MEASURED = {
    "sd15": STEPS | {"trains whole"},
    "sdxl": STEPS | {"trains whole"},
    "sd35": STEPS | {"trains whole"},
    "flux": STEPS,
    "klein": STEPS,
    "blip2-xl": {"answers"},
    "qwen3-vl": {"answers"},
}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kernels

    return kernels


def run_script(*arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / "full_size.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("model", MEASURED)
def test_each_step_of_a_model_is_measured(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    small = ("--tiny", "--one-process", "--steps", "1", "--repeats", "1", "--batch", "1", "--pairs", "1")
    run_script(model, *small, "--out", str(out))
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert {line["what"] for line in lines} == MEASURED[model]
    for line in lines:
        assert "failure" not in line, line
        assert line["per_second"] > 0 and line["tflop"] > 0
        assert sum(line["kernels"].values()) == pytest.approx(1)
    tables = run_script("--table", str(out))
    assert all(f"| {model} | {step} |" in tables for step in MEASURED[model])


@pytest.mark.long
def test_a_model_beyond_the_budget_is_cut_off(tmp_path: Path) -> None:
    said = run_script("blip2-xl", "qwen3-vl", "--tiny", "--budget", "6", "--each", "0.1")
    assert "blip2-xl: 0 s, and was cut off" in said


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_work_is_counted_as_torch_counts_it(kernels: Any, mode: Any) -> None:
    convolution, layer = nn.Conv2d(4, 8, 3), nn.Linear(8, 8)

    def multiply() -> torch.Tensor:
        hidden = layer(torch.ones(2, 4, 16, 8))
        return convolution(hidden).sum() + (hidden @ hidden.mT).sum()

    with mode(), kernels.FlopCounter() as counter:
        out = multiply()
        if out.requires_grad:
            out.backward()
    with FlopCounterMode(display=False) as expected:
        out = multiply()
        if mode is torch.enable_grad:
            out.backward()
    assert counter.flops == expected.get_total_flops()


def test_attention_is_counted(kernels: Any) -> None:
    """Two products of 16 x 16 tokens in 8 heads of width 4, for each of 3 rows."""
    query = torch.ones(3, 8, 16, 4)
    with torch.inference_mode(), kernels.FlopCounter() as counter:
        F.scaled_dot_product_attention(query, query, query)
    assert counter.flops == 2 * 2 * 16 * 16 * 8 * 4 * 3


def test_kernels_that_overlap_keep_the_device_busy_once(kernels: Any) -> None:
    found = kernels.sum_times([("nvjet_tst_128x256", 0.0, 2.0), ("flash_fwd_kernel", 1.0, 2.0), ("Memcpy DtoH", 5, 1)])
    assert found.busy == 4.0
    assert found.kinds == {"matmul, conv": 2.0, "attention": 2.0, "copy, cast": 1.0}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNT", "matmul, conv"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "matmul, conv"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x128x128", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::Params)", "attention"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(", "copy, cast"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float>", "copy, cast"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl(", "elementwise"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>", "norm, softmax"),
        ("void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<c10::BFloat16>", "norm, softmax"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedOptimizerTensor", "optimizer"),
    ],
)
def test_kinds_of_kernels(kernels: Any, name: str, kind: str) -> None:
    assert kernels.find_kind(name) == kind
