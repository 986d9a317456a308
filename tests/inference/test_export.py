import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dbrnet
from dbrnet.data.dataset import Image
from dbrnet.data.loading import normalise_exposure, normalise_exposure_batch
from dbrnet.errors import UserError
from dbrnet.inference.export import DeployedModel, count_batch_norms, fuse
from dbrnet.inference.runtimes import open_model
from dbrnet.inference.runtimes.exported import read_exported
from dbrnet.inference.runtimes.pytorch import TorchModel
from dbrnet.models.blocks import enlarge, enlarge_by_products
from dbrnet.models.dbrnet import DBRNet
from tests.conftest import CLASSES, Exported, lively

SIZES = [(1, 32, 32), (3, 33, 47), (1, 256, 400), (2, 63, 201), (1, 32, 700), (1, 577, 40)]


@pytest.fixture(scope="module")
def graph(exported: Exported) -> onnx.ModelProto:
    return onnx.load_model(exported[0], load_external_data=False)


def test_the_file_is_self_contained_and_valid(exported: Exported, graph: onnx.ModelProto) -> None:
    assert [file.name for file in exported[0].parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in graph.graph.initializer)


def test_batch_height_and_width_are_free(graph: onnx.ModelProto) -> None:
    ends = {}
    for value in (*graph.graph.input, *graph.graph.output):
        kind = value.type.tensor_type
        ends[value.name] = kind.elem_type, [size.dim_param or size.dim_value for size in kind.shape.dim]
    assert ends == {
        "image": (onnx.TensorProto.UINT8, ["batch", "height", "width", 3]),
        "mask": (onnx.TensorProto.UINT8, ["batch", "height", "width"]),
        "confidence": (onnx.TensorProto.FLOAT, ["batch", "height", "width"]),
    }


def test_only_batch_norms_without_a_convolution_before_them_stay(exported: Exported) -> None:
    # In the context module: two on its input, one after each of three pools and the mean, one after each
    # of four sums, one after the concatenation; and one at the head's start, after a sum.
    assert count_batch_norms(exported[0]) == 2 + 3 + 1 + 4 + 1 + 1


def test_the_auxiliary_head_is_not_in_the_file(exported: Exported, graph: onnx.ModelProto) -> None:
    path, model, _ = exported
    held = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
    deployed = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("auxiliary_head"))
    assert held < deployed + 10_000  # LFEM's merged filters add half of that; the head would be 37,000 more
    assert b"auxiliary" not in path.read_bytes()
    assert hasattr(model, "auxiliary_head")  # the caller's network keeps it


def test_the_metadata_describes_the_file_and_not_the_machine(exported: Exported, graph: onnx.ModelProto) -> None:
    path, _, meta = exported
    assert (graph.producer_name, graph.producer_version) == ("dbrnet", dbrnet.__version__)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(metadata["classes"])[1] == {"name": "crack", "color": [230, 60, 40]}
    assert metadata["dataset_content_hash"] == "4d5e"
    assert json.loads(metadata["mean"]) == list(meta.mean)
    assert "RGB" in metadata["input"]
    content = path.read_bytes()
    assert str(Path(dbrnet.__file__).parent).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("which", ["exported", "exported_with_all"])
def test_outputs_equal_pytorchs_at_any_size(
    which: str, request: pytest.FixtureRequest, make_image: Callable[..., Image]
) -> None:
    path, model, meta = request.getfixturevalue(which)
    onnx_model, torch_model = open_model(path, threads=1), TorchModel(model, meta, threads=1)
    for batch, height, width in SIZES:
        images = np.stack([make_image(height, width, seed) for seed in range(batch)])
        mask, confidence = onnx_model.predict(images)
        expected_mask, expected_confidence = torch_model.predict(images)
        assert mask.shape == confidence.shape == (batch, height, width)
        assert (mask.dtype, confidence.dtype) == (np.uint8, np.float32)
        assert (mask == expected_mask).mean() > 0.999, (batch, height, width)
        np.testing.assert_allclose(confidence, expected_confidence, atol=2e-4)


def test_the_graph_equals_normalisation_softmax_and_maximum(
    exported: Exported, make_image: Callable[..., Image]
) -> None:
    path, model, meta = exported
    image = make_image(72, 104)
    normalised = (image / 255 - np.array(meta.mean)) / np.array(meta.std)
    with torch.inference_mode():
        logits = model(torch.from_numpy(normalised.astype(np.float32).transpose(2, 0, 1)[None]))
    highest, expected = logits.softmax(dim=1).max(dim=1)
    mask, confidence = open_model(path).predict(image[None])
    assert len(np.unique(mask)) > 1
    assert (mask == expected.numpy()).mean() > 0.999
    np.testing.assert_allclose(confidence, highest.numpy(), atol=2e-4)


@pytest.mark.parametrize(("zoom", "width", "height"), [(0.5, 61, 100), (1.5, 182, 300), (2.25, 272, 450)])
def test_images_are_resized_bilinearly_by_the_zoom(
    exported_with_all: Exported, make_image: Callable[..., Image], zoom: float, width: int, height: int
) -> None:
    _, model, meta = exported_with_all
    meta = replace(meta, zoom=zoom, normalised=False)
    image = make_image(200, 121)
    resized = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    normalised = (resized / 255 - np.array(meta.mean)) / np.array(meta.std)
    with torch.inference_mode():
        small = model(torch.from_numpy(normalised.astype(np.float32).transpose(2, 0, 1)[None]))
        logits = DeployedModel(model, meta).logits(torch.from_numpy(image[None]))
    expected = cv2.resize(small[0].numpy().transpose(1, 2, 0), (121, 200), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(logits[0].numpy().transpose(1, 2, 0), expected, atol=2e-3)


def test_a_normalising_graph_gives_the_same_under_any_exposure(
    exported_with_all: Exported, make_image: Callable[..., Image]
) -> None:
    path, model, meta = exported_with_all
    dark = make_image(200, 120) // 4
    onnx_model = open_model(path, threads=1)
    mask, confidence = onnx_model.predict(np.stack([dark, 3 * dark, dark + 150]))  # each by its own exposure
    assert len(np.unique(mask)) > 1
    for other in (1, 2):
        assert (mask[other] == mask[0]).mean() > 0.999
        np.testing.assert_allclose(confidence[other], confidence[0], atol=2e-3)
    # The same as training does to its images, except for their rounding.
    plain = TorchModel(model, replace(meta, normalised=False), threads=1)
    expected, _ = plain.predict(normalise_exposure(dark)[None])
    assert (mask[0] == expected[0]).mean() > 0.98
    assert np.abs(plain.predict(dark[None])[1] - confidence[0]).max() > 0.02  # normalisation has an effect


def test_noise_of_a_flat_image_is_not_amplified(exported_with_all: Exported) -> None:
    flat = np.full((1, 64, 64, 3), 7, np.uint8)
    flat[0, 30] = 8
    mask, confidence = open_model(exported_with_all[0], threads=1).predict(flat)
    assert np.isfinite(confidence).all()
    assert np.array_equal(mask, open_model(exported_with_all[0], threads=1).predict(flat + 100)[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch's exporter, of itself
def test_the_runtime_normalises_a_large_strip_exactly(make_image: Callable[..., Image]) -> None:
    class NormaliseExposure(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return normalise_exposure_batch(images)

    strip = torch.from_numpy(make_image(256, 1600)).permute(2, 0, 1)[None].float() / 16 + 100
    program = torch.onnx.export(NormaliseExposure().eval(), (strip,), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: strip.numpy()})
    assert np.abs(found - normalise_exposure_batch(strip.double()).numpy()).max() < 1e-3  # grey values


@pytest.mark.parametrize("off", ["", "lfem", "affm", "dcppm"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (128, 200)])
@torch.inference_mode()
def test_the_fused_network_gives_the_same_logits(off: str, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    model = lively(DBRNet(3, lfem=off != "lfem", affm=off != "affm", dcppm=off != "dcppm"))
    before = copy.deepcopy(model.state_dict())
    images, scale = torch.randn(2, 3, *size), torch.tensor([0.5, 2.0, 3.0])[:, None, None]
    expected = model(images * scale)
    assert torch.allclose(fuse(model, scale)(images), expected, atol=1e-4 * float(expected.abs().max()))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before | after)  # the trained network is as it was


def test_operations_that_make_runtimes_copy_are_gone(graph: onnx.ModelProto) -> None:
    operations = Counter(node.op_type for node in graph.graph.node)
    assert operations["Split"] == 0
    assert operations["GridSample"] == 1
    # That of the image, from [N, H, W, C] to [N, C, H, W], and that of an interpolation matrix.
    assert operations["Transpose"] == 2
    assert operations["ReduceMax"] == operations["ArgMax"] == operations["ReduceSum"] == 0


@pytest.mark.parametrize("sizes", [[(64, 96)], [(57, 90)], [(60, 96), (33, 47)], [(64, 89), (1, 9), (32, 40)]])
def test_two_products_resize_like_interpolation(sizes: list[tuple[int, int]]) -> None:
    logits = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = enlarge(logits, 8, torch.Size(sizes[0]))
    for size in sizes[1:]:
        expected = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
    resized = enlarge_by_products(logits, 8, *(torch.Size(size) for size in sizes))
    assert torch.allclose(resized, expected, atol=1e-5)


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


def another_producer(model: onnx.ModelProto) -> None:
    model.producer_name = "pytorch"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_classes(lambda classes: classes[:-1]), "names 3 classes and its network tells 4 apart"),
        (with_classes(lambda classes: [*classes, classes[0]]), "names 5 classes and its network tells 4"),
        (with_classes(lambda classes: []), "names 0 classes"),
        (foreign, "inputs and outputs are not those"),
        (another_type, "inputs and outputs are not those"),
        (another_producer, "not one that `dbrnet export` wrote"),
        (fill_weights, "holds values that are not finite"),
        (one_infinite, "average holds values that are not finite"),
    ],
)
def test_a_foreign_file_or_one_that_contradicts_itself_is_refused(
    exported: Exported, tmp_path: Path, change: Change, message: str
) -> None:
    model = onnx.load_model(exported[0])
    change(model)
    onnx.save_model(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=message) as caught:
        read_exported(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_an_exported_file_is_accepted_and_needs_nothing_beside_it(exported: Exported) -> None:
    file = read_exported(exported[0])
    assert file.classes == file.with_logits().classes == CLASSES
    assert file.metadata["dataset_content_hash"] == "4d5e"
