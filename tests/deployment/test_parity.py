import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from dbrnet.data.dataset import Image
from dbrnet.deployment.parity import measure_parity
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta

Exported = tuple[Path, DBRNet, ModelMeta]


def pictures(picture: Callable[..., Image]) -> list[Image]:
    return [picture(height, width) for height, width in ((200, 200), (65, 139), (96, 48))]


def test_a_true_export_agrees(exported: Exported, picture: Callable[..., Image]) -> None:
    parity = measure_parity(*exported, pictures(picture))
    assert parity.images == 3
    assert parity.max_logit_difference < 1e-3
    assert parity.max_confidence_difference < 1e-4
    assert parity.equal_pixels > 0.9999
    assert set(parity.to_dict()) == {
        "max_logit_difference",
        "max_confidence_difference",
        "equal_pixels",
        "images",
    }


def swap_normalisation(graph: onnx.GraphProto) -> None:
    """Blue's mean for red's: what reading BGR as RGB does."""
    for tensor in graph.initializer:
        if tensor.name in ("scale", "shift"):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))


def swap_flow(graph: onnx.GraphProto) -> None:
    """y first: the flow convolution's two channels change places."""
    for tensor in graph.initializer:
        if tensor.name == "network.fusion.flow.weight":
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))


def corner_grid(graph: onnx.GraphProto) -> None:
    """The grid read from corner to corner."""
    for node in graph.node:
        if node.op_type == "GridSample":
            kept = [entry for entry in node.attribute if entry.name != "align_corners"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("align_corners", 1)])


@pytest.mark.parametrize("fault", [swap_normalisation, swap_flow, corner_grid])
def test_a_fault_in_the_file_shows(
    exported: Exported,
    picture: Callable[..., Image],
    tmp_path: Path,
    fault: Callable[[onnx.GraphProto], None],
) -> None:
    path, model, meta = exported
    graph = onnx.load_model(path)
    before = graph.SerializeToString()
    fault(graph.graph)
    assert graph.SerializeToString() != before
    onnx.save_model(graph, tmp_path / "faulty.onnx")
    parity = measure_parity(tmp_path / "faulty.onnx", model, meta, pictures(picture))
    assert parity.max_logit_difference > 0.01


def test_another_network_or_normalisation_shows(exported: Exported, picture: Callable[..., Image]) -> None:
    path, model, meta = exported
    shifted = measure_parity(path, model, replace(meta, mean=meta.std, std=meta.mean), pictures(picture))
    assert shifted.equal_pixels < 1
    assert shifted.max_logit_difference > 0.01
    other_network = copy.deepcopy(model)
    nn.init.normal_(other_network.head.body[-1].weight, std=0.7)  # type: ignore[arg-type]
    other = measure_parity(path, other_network, meta, pictures(picture))
    assert other.equal_pixels < 0.9


def test_nan_is_not_taken_for_agreement(exported: Exported, picture: Callable[..., Image]) -> None:
    path, model, meta = exported
    parity = measure_parity(path, model, replace(meta, mean=(float("nan"),) * 3), pictures(picture))
    assert np.isnan(parity.max_logit_difference)


def test_no_pictures_is_an_error(exported: Exported) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        measure_parity(*exported, [])
