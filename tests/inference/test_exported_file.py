"""What a file says of itself is held against its graph: one line, and no answer that is none."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from dbrnet.errors import UserError
from dbrnet.inference.exported_file import read_exported
from tests.conftest import CLASSES, Exported

Change = Callable[[onnx.ModelProto], None]


def with_classes(change: Callable[[list[object]], list[object]]) -> Change:
    def apply(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == "classes")
        entry.value = json.dumps(change(json.loads(entry.value)))

    return apply


def fill_weights(model: onnx.ModelProto) -> None:
    """0xFF in every byte: nan."""
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = b"\xff" * len(largest.raw_data)


def one_infinite(model: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "average")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[1] = np.inf
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def foreign(model: onnx.ModelProto) -> None:
    """Another graph under our name."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    model.graph.CopyFrom(onnx.helper.make_graph([node], "other", [value], [result]))


def another_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_classes(lambda classes: classes[:-1]), "names 3 classes and its network tells 4 apart"),
        (with_classes(lambda classes: [*classes, classes[0]]), "names 5 classes and its network tells 4"),
        (with_classes(lambda classes: []), "names 0 classes"),
        (foreign, "inputs and outputs are not those"),
        (another_type, "inputs and outputs are not those"),
        (fill_weights, "holds values that are not finite"),
        (one_infinite, "average holds values that are not finite"),
    ],
)
def test_a_file_that_belies_itself(exported: Exported, tmp_path: Path, change: Change, message: str) -> None:
    model = onnx.load_model(exported[0])
    change(model)
    onnx.save_model(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=message) as caught:
        read_exported(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_what_export_writes_is_taken(exported: Exported) -> None:
    assert read_exported(exported[0]).classes == CLASSES
    assert read_exported(exported[0]).with_logits().classes == CLASSES
