import copy
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F

from dbrnet.inference.export import fuse, resize_by_products
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from tests.conftest import lively

Exported = tuple[Path, DBRNet, ModelMeta]
ONE = torch.ones(3, 1, 1)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (128, 200)])
@torch.inference_mode()
def test_the_fused_network_gives_the_same_logits(exported: Exported, size: tuple[int, int]) -> None:
    model = exported[1]
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    assert torch.allclose(fuse(model, ONE)(images), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("lfem", "affm", "dcppm"), [(False, True, True), (True, False, True), (True, True, False)])
@torch.inference_mode()
def test_fused_ablation_rows_give_the_same_logits(lfem: bool, affm: bool, dcppm: bool) -> None:
    torch.manual_seed(1)
    model = lively(DBRNet(3, lfem=lfem, affm=affm, dcppm=dcppm))
    images = torch.randn(1, 3, 64, 96)
    expected = model(images)
    assert torch.allclose(fuse(model, ONE)(images), expected, atol=1e-4 * float(expected.abs().max()))


@torch.inference_mode()
def test_the_scale_is_in_the_first_convolution(exported: Exported) -> None:
    scale = torch.tensor([0.5, 2.0, 3.0])[:, None, None]
    images = torch.randn(1, 3, 64, 64)
    expected = exported[1](images * scale)
    assert torch.allclose(fuse(exported[1], scale)(images), expected, atol=1e-4 * float(expected.abs().max()))


def test_the_trained_network_is_left_as_it_was(exported: Exported) -> None:
    before = copy.deepcopy(exported[1].state_dict())
    fuse(exported[1], 2 * ONE)
    after = exported[1].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_operations_that_make_runtimes_copy_are_gone(exported: Exported) -> None:
    operations = Counter(node.op_type for node in onnx.load_model(exported[0]).graph.node)
    assert operations["Split"] == 0
    assert operations["GridSample"] == 1
    # That of the image, from [N, H, W, C] to [N, C, H, W], and that of an interpolation matrix.
    assert operations["Transpose"] == 2
    assert operations["ReduceMax"] == operations["ArgMax"] == operations["ReduceSum"] == 0


@pytest.mark.parametrize("sizes", [[(64, 96)], [(200, 13)], [(4, 5)], [(96, 160), (33, 47)], [(1, 9), (32, 40)]])
def test_two_products_resize_like_interpolation(sizes: list[tuple[int, int]]) -> None:
    logits = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = logits
    for size in sizes:
        expected = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
    resized = resize_by_products(logits, *(torch.Size(size) for size in sizes))
    assert torch.allclose(resized, expected, atol=1e-5)
