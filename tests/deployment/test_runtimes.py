from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from dbrnet.data.dataset import Image
from dbrnet.deployment.runtimes.catalogue import open_model
from dbrnet.errors import UserError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta

Exported = tuple[Path, DBRNet, ModelMeta]


def test_the_file_is_enough(exported: Exported) -> None:
    path, _, meta = exported
    model = open_model(path, threads=1)
    assert model.classes == meta.classes
    assert model.metadata["dataset_content_hash"] == "4d5e"
    assert model.runtime == "onnxruntime-cpu"


def test_a_batch_is_answered_as_its_pictures(exported: Exported, picture: Callable[..., Image]) -> None:
    model = open_model(exported[0], threads=1)
    images = np.stack([picture(50, 90, seed) for seed in range(3)])
    masks, _ = model.predict(images)
    for image, mask in zip(images, masks, strict=True):
        assert (model.predict(image[None])[0][0] == mask).mean() > 0.999


def test_missing_and_broken_files(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.onnx: cannot be read"):
        open_model(tmp_path / "none.onnx")
    content = exported[0].read_bytes()
    for name, data in (("empty", b""), ("text", b"not a model"), ("half", content[: len(content) // 2])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: not a readable ONNX file") as caught:
            open_model(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_anothers_onnx_file(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [value], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "other.onnx")
    with pytest.raises(UserError, match="not one that `dbrnet export` wrote"):
        open_model(tmp_path / "other.onnx")


def test_pictures_too_small_or_of_another_kind(exported: Exported) -> None:
    model = open_model(exported[0], threads=1)
    with pytest.raises(UserError, match="31x200"):
        model.predict(np.zeros((1, 31, 200, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        model.predict(np.zeros((1, 64, 64), np.uint8))
