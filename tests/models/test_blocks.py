"""The geometry of maps that meet, on maps that are not square, where swapped axes show."""

import pytest
import torch
import torch.nn.functional as F

from dbrnet.models.blocks import AFFM, DepthwiseConv, enlarge, enlarge_by_products, shuffle_channels, warp

SIZES = [(6, 6), (5, 9), (32, 200)]


def places(height: int, width: int, stride: int) -> torch.Tensor:
    """A map [1, 2, h, w] whose pixels hold where in an image [height, width] their middles lie: row, column."""
    sides = (-(-height // stride), -(-width // stride))
    rows, columns = (stride * torch.arange(side) + (stride - 1) / 2 for side in sides)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (300, 300), (33, 47), (57, 121)])
@pytest.mark.parametrize("way", ["interpolation", "products"])
def test_an_enlarged_map_stays_where_it_was(height: int, width: int, way: str) -> None:
    """Also where a side is no multiple of 8, and the map therefore reaches beyond the image."""
    size = torch.Size((height, width))
    coarse = places(height, width, 8)
    fine = enlarge(coarse, 8, size) if way == "interpolation" else enlarge_by_products(coarse, 8, size)
    # Beyond the middles of the outer pixels there is nothing to interpolate with.
    inner = (..., slice(4, 8 * (coarse.shape[-2] - 1)), slice(4, 8 * (coarse.shape[-1] - 1)))
    assert (fine[inner] - places(height, width, 1)[inner]).abs().max() < 1e-3


def test_the_released_reading_squeezes_a_map_that_reaches_beyond_the_image() -> None:
    size = torch.Size((33, 300))
    coarse = places(33, 300, 8)
    for fine in (enlarge(coarse, 8, size, "released"), enlarge_by_products(coarse, 8, size, alignment="released")):
        assert (fine - F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)).abs().max() < 1e-3
        assert fine[0, 1, 16, 290] - 290 > 3  # what lies at column 294 is drawn at 290


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("odd", [0, 1])
def test_zero_flow_enlarges(height: int, width: int, odd: int) -> None:
    features = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    size = torch.Size((2 * height - odd, 2 * width))
    assert (warp(features, torch.zeros(2, 2, *size)) - enlarge(features, 2, size)).abs().max() < 1e-4


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-2, 1)])
def test_flow_of_two_moves_by_one_pixel(height: int, width: int, dx: int, dy: int) -> None:
    """Channel 0 goes along the width, and beyond the border the border goes on."""
    features = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    size = torch.Size((2 * height, 2 * width))
    flow = 2.0 * torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, *size)
    rows = (torch.arange(size[0]) + dy).clamp(0, size[0] - 1)
    columns = (torch.arange(size[1]) + dx).clamp(0, size[1] - 1)
    still = enlarge(features, 2, size)
    assert (warp(features, flow) - still[:, :, rows][..., columns]).abs().max() < 1e-4


def test_released_reading_keeps_its_defects() -> None:
    ones = torch.ones(1, 1, 4, 8)
    still = warp(ones, torch.zeros(1, 2, 4, 8), "released")
    assert still[0, 0, 0, 0] == pytest.approx(0.25)
    assert still[0, 0, 0, 4] == pytest.approx(0.5)
    # A whole width to the right takes width half pixels along x, but theirs needs only `height`.
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    flow = torch.zeros(1, 2, 4, 8)
    flow[:, 0] = 1.0
    moved = warp(ramp, flow, "released") - warp(ramp, torch.zeros_like(flow), "released")
    assert moved[0, 0, 1, 3] == pytest.approx(1.0)  # 1 / height of 2, on 8 columns; aligned: a half


def test_half_precision_features_are_sampled_at_full_precision_places() -> None:
    columns = torch.arange(100.0).expand(1, 1, 2, 100)
    sampled = warp(columns.bfloat16(), torch.zeros(1, 2, 4, 200, dtype=torch.bfloat16))
    assert sampled.dtype == torch.bfloat16
    assert torch.equal(sampled, enlarge(columns, 2, torch.Size((4, 200))).bfloat16())


def test_affm_is_equation_1() -> None:
    """With a zero flow: attention times detail plus the compressed semantic map, resized."""
    torch.manual_seed(0)
    affm = AFFM(8, 4).eval()
    torch.nn.init.zeros_(affm.flow.weight)
    detail, semantic = torch.randn(2, 4, 6, 10), torch.randn(2, 8, 3, 5)
    weight, bias = affm.attention.weight[:, :, 0, 0], affm.attention.bias
    attention = F.linear(semantic.mean((2, 3)), weight, bias)
    resized = F.interpolate(affm.compress(semantic), size=(6, 10), mode="bilinear", align_corners=False)
    expected = attention[:, :, None, None] * detail + resized
    assert (affm(detail, semantic) - expected).abs().max() < 1e-5


def test_shuffling_keeps_the_order_of_a_map_in_memory() -> None:
    x = torch.randn(2, 6, 3, 5)
    expected = x[:, [0, 3, 1, 4, 2, 5]]
    assert torch.equal(shuffle_channels(x), expected)
    last = shuffle_channels(x.to(memory_format=torch.channels_last))
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_depthwise_convolutions_stay_in_float32_on_a_cpu() -> None:
    convolution, x = DepthwiseConv(4, 3, stride=2), torch.randn(1, 4, 7, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = convolution(x.bfloat16())
    assert y.dtype == torch.float32
    assert torch.equal(y, convolution(x.bfloat16().float()))
