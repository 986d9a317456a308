import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dbrnet.models.blocks import Alignment
from dbrnet.models.dbrnet import DBRNet


def test_the_default_alignment_differs_from_the_released() -> None:
    """The golden test would not see the default reading turn into the released one."""
    torch.manual_seed(0)
    exact, released = DBRNet(4).eval(), DBRNet(4, alignment="released").eval()
    released.load_state_dict(exact.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert (exact(image) - released(image)).abs().max() > 1e-2


@pytest.mark.parametrize("dcppm", [True, False])
def test_where_nothing_exceeds_the_image_both_alignments_are_one(dcppm: bool) -> None:
    """But for AFFM's flow: so each map is enlarged by as much as its branch had made it smaller."""
    torch.manual_seed(0)
    exact = DBRNet(4, affm=False, dcppm=dcppm).eval()
    released = DBRNet(4, affm=False, dcppm=dcppm, alignment="released").eval()
    released.load_state_dict(exact.state_dict())
    images = torch.randn(1, 3, 256, 512)
    with torch.inference_mode():
        assert (exact(images) - released(images)).abs().max() < 1e-4


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (204, 200), (500, 300), (32, 250), (63, 64)])
def test_any_size_from_32_up_is_answered(height: int, width: int) -> None:
    model = DBRNet(5).eval()
    image = torch.randn(1, 3, height, width)
    with torch.inference_mode():
        logits = model(image)
        coarse = model.logits_at_stride_8(image)
    assert logits.shape == (1, 5, height, width)
    assert coarse.shape == (1, 5, -(-height // 8), -(-width // 8))
    assert logits.isfinite().all()


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (1, 33, 47), (1, 64, 96), (2, 32, 32)])
@pytest.mark.parametrize("full", [True, False])
def test_trains_on_any_batch(full: bool, batch: int, height: int, width: int) -> None:
    """Both logits at the image's size, and a finite gradient in every parameter."""
    torch.manual_seed(0)
    model = DBRNet(4, lfem=full, affm=full, dcppm=full).train()
    logits, auxiliary = model(torch.randn(batch, 3, height, width))
    assert logits.shape == auxiliary.shape == (batch, 4, height, width)
    target = torch.randint(0, 4, (batch, height, width))
    loss = torch.nn.functional.cross_entropy(logits, target)
    (loss + torch.nn.functional.cross_entropy(auxiliary, target)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    model = DBRNet(4).eval()
    images = torch.randn(3, 3, 40, 56)
    with torch.inference_mode():
        together, alone = model(images), model(images[1:2])
    assert (together[1:2] - alone).abs().max() < 1e-5 * alone.abs().max()


class HostTensors(TorchDispatchMode):
    """Notes every operation that puts a tensor on the host while the network is on another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("alignment", ["exact", "released"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_created_on_the_host(alignment: Alignment, training: bool) -> None:
    """On the meta device every tensor must be a meta tensor: one on the host is made there, or copied."""
    with torch.device("meta"):
        model = DBRNet(4, alignment=alignment).train(training)
        image = torch.empty(2, 3, 64, 96)
    with HostTensors() as noted:
        model(image)
    assert noted.operations > 100
    assert noted.found == []


def test_host_tensors_are_noticed() -> None:
    with HostTensors() as noted:
        torch.linspace(-1, 1, 8)
        torch.tensor([[8, 4]]).to("meta")
    assert len(noted.found) >= 2


def test_the_auxiliary_head_reads_the_detail_branch_after_fusion() -> None:
    torch.manual_seed(0)
    model = DBRNet(4).train()
    fused: list[Tensor] = []
    model.fusion.register_forward_hook(lambda _module, _inputs, output: fused.append(output))
    _, auxiliary = model(torch.randn(2, 3, 64, 96))
    expected = torch.nn.functional.interpolate(
        model.auxiliary_head(fused[0]), size=(64, 96), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(auxiliary, expected)


@pytest.mark.parametrize("classes", [2, 6])
def test_an_untrained_networks_loss_is_log_of_the_classes(classes: int) -> None:
    torch.manual_seed(0)
    logits, auxiliary = DBRNet(classes).train()(torch.randn(2, 3, 64, 64))
    target = torch.randint(classes, (2, 64, 64))
    for output in (logits, auxiliary):
        loss = torch.nn.functional.cross_entropy(output, target)
        assert loss.item() == pytest.approx(math.log(classes), abs=0.05)
