from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models.steering.attention import (
    choose_level,
    list_cross_attention,
    list_grids,
    record_maps,
)

SD15 = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


@pytest.fixture(scope="module")
def network(build: Callable[..., Any]) -> Any:
    return build().network


def inputs(network: Any, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    text = torch.randn(rows, 12, network.config.cross_attention_dim, generator=source)
    return torch.randn(rows, 4, 8, 8, generator=source), torch.tensor([500] * rows), text


def test_maps_are_the_mean_over_layers_and_heads(network: Any, read_maps: Callable[..., Tensor]) -> None:
    naive = read_maps(network, *inputs(network))
    with torch.no_grad():
        maps = record_maps(list_cross_attention(network), lambda: network(*inputs(network)))
    assert maps.shape == (2, 12, 16) and maps.dtype == torch.float32
    torch.testing.assert_close(maps, naive, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 16))


def test_a_row_has_its_own_maps(network: Any) -> None:
    """The published store of diffusers mixes the batch into the heads."""
    layers = list_cross_attention(network)
    noisy, times, text = inputs(network)
    with torch.no_grad():
        both = record_maps(layers, lambda: network(noisy, times, text))
        for row in range(2):
            one = slice(row, row + 1)
            alone = record_maps(layers, lambda one=one: network(noisy[one], times[one], text[one]))
            torch.testing.assert_close(both[one], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_processors_are_as_before_also_after_an_error(network: Any) -> None:
    layers = list_cross_attention(network)
    before = [layer.processor for layer in layers]
    with torch.no_grad():
        record_maps(layers, lambda: network(*inputs(network)))
        with pytest.raises(ZeroDivisionError):
            record_maps(layers, lambda: 1 / 0)
    assert [layer.processor for layer in layers] == before


def test_the_network_ends_with_the_last_recorded_layer(network: Any) -> None:
    ran: list[str] = []
    hook = network.conv_out.register_forward_hook(lambda *a: ran.append("conv_out"))
    with torch.no_grad():
        record_maps(list_cross_attention(network), lambda: network(*inputs(network)))
    hook.remove()
    assert not ran


def test_gradients_flow_to_the_latents(network: Any) -> None:
    noisy, times, text = inputs(network)
    noisy.requires_grad_()
    maps = record_maps(list_cross_attention(network), lambda: network(noisy, times, text))
    (gradient,) = torch.autograd.grad(maps[0].amax(), noisy)
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0


def test_layers_of_a_level_in_the_order_in_which_they_run(network: Any) -> None:
    # the level of the tiny network's last block on the way down, its middle and its first on the way up
    names = {layer: name for name, layer in network.named_modules()}
    blocks = [names[layer].split(".")[0] for layer in list_cross_attention(network, 1)]
    assert blocks == ["down_blocks", "mid_block", "up_blocks", "up_blocks"]
    assert list_cross_attention(network, 0) == []


@pytest.mark.parametrize(
    ("size", "level", "grid"),
    [((512, 512), 2, (16, 16)), ((768, 768), 2, (24, 24)), ((512, 768), 2, (16, 24)), ((256, 256), 2, (8, 8))],
)
def test_the_default_grid_has_a_cell_for_32_pixels(size: tuple[int, int], level: int, grid: tuple[int, int]) -> None:
    grids = list_grids(SD15, (size[0] // 8, size[1] // 8))
    assert choose_level(grids, size, None) == level and grids[level] == grid


def test_odd_latents_are_halved_as_the_network_does() -> None:
    assert list_grids(SD15, (65, 64))[2] == (17, 16)


def test_a_small_network_takes_its_nearest_grid() -> None:
    shapes = {
        "down_block_types": ["CrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D"],
    }
    assert choose_level(list_grids(shapes, (8, 8)), (64, 64), None) == 0


def test_a_grid_that_is_not_there_is_refused() -> None:
    grids = list_grids(SD15, (64, 64))
    assert choose_level(grids, (512, 512), 32) == 1
    with pytest.raises(ModelError, match=r"no cross-attention on a grid of 24.*64 \(64 x 64\).*16 \(16 x 16\)"):
        choose_level(grids, (512, 512), 24)
    with pytest.raises(ModelError, match="no cross-attention"):
        choose_level({}, (512, 512), None)
