import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dbrnet.data.dataset import Image
from dbrnet.errors import UserError
from dbrnet.inference.quantize import Quantized, TooLossyError, quantize
from dbrnet.inference.runtimes import RUNTIMES, file_of, open_all, open_model, why_not_available
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.inference.runtimes.exported import PROVIDERS, OnnxModel, OpenVinoModel, read_exported
from dbrnet.models.saved import save_model
from tests.conftest import Exported

Int8 = tuple[Path, Quantized]
AGREEMENT = {"fp32": 0.999, "bf16": 0.97, "int8": 0.85}  # share of equal pixels, on noise and raw weights


@pytest.fixture(scope="module")
def quantize_within(exported: Exported, make_image: Callable[..., Image]) -> Callable[[Path, float], Quantized]:
    """Quantizes within a budget of difference to float32 in confidence, in which every convolution has a share."""
    reference = open_model(exported[0])
    images = {str(seed): make_image(64, 96, seed) for seed in range(2)}
    expected = {id_: reference.predict(image[None])[1] for id_, image in images.items()}

    def score(candidate: Model, ids: Sequence[str]) -> tuple[float, list[float]]:
        confidences = {id_: candidate.predict(images[id_][None])[1] for id_ in ids}
        alike = [1 - float(np.abs(confidences[id_] - expected[id_]).mean()) for id_ in ids]
        return sum(alike) / len(alike), alike

    calibration, validation = list(images.values()), list(images)
    return lambda out, budget: quantize(
        exported[0], out, calibration=calibration, validation=validation, score=score, max_loss=budget
    )


@pytest.fixture(scope="module")
def int8(quantize_within: Callable[[Path, float], Quantized], tmp_path_factory: pytest.TempPathFactory) -> Int8:
    """All convolutions in int8."""
    path = tmp_path_factory.mktemp("int8") / "model-int8.onnx"
    return path, quantize_within(path, 0.9)


@pytest.fixture(scope="module")
def files(exported: Exported, int8: Int8, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, model.onnx and model-int8.onnx."""
    folder = tmp_path_factory.mktemp("files")
    path, model, meta = exported
    save_model(folder / "model.pt", model, meta)
    (folder / "model.onnx").write_bytes(path.read_bytes())
    (folder / "model-int8.onnx").write_bytes(int8[0].read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_tight_budget_keeps_some_convolutions_in_higher_precision(
    int8: Int8, quantize_within: Callable[[Path, float], Quantized], tmp_path: Path
) -> None:
    all_of_them = int8[1].loss_of_all
    budget = 0.8 * all_of_them
    outcome = quantize_within(tmp_path / "int8.onnx", budget)
    assert 0 < len(outcome.kept) < outcome.convolutions
    assert outcome.loss <= budget < outcome.loss_of_all
    assert read_exported(tmp_path / "int8.onnx").metadata["val_miou"] == f"{outcome.miou - outcome.loss:.4f}"


def test_a_loss_above_the_budget_and_nothing_in_int8_are_refused() -> None:
    outcome = Quantized(miou=0.8, loss_of_all=0.03, loss=0.004, kept=("stem.0",), convolutions=2)
    outcome.require_within(0.004)
    with pytest.raises(TooLossyError, match=r"0\.0040 with 1 of them, and may lose 0\.003;"):
        outcome.require_within(0.003)
    with pytest.raises(TooLossyError, match=r"0\.0040 with 0 of them, and may lose 0\.004;"):
        replace(outcome, kept=("stem.0", "stem.3")).require_within(0.004)


TELEMETRY = """
import dbrnet
from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__)
"""


def test_nncf_telemetry_is_disabled() -> None:
    """In a process without pytest, under which NNCF disables it anyway."""
    environment = {key: value for key, value in os.environ.items() if key not in {"NNCF_CI", "NNCF_DEV"}}
    done = subprocess.run(
        [sys.executable, "-c", TELEMETRY], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split()[-1] != "NNCFTelemetry"  # but a stub that does nothing


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "pytorch-compiled"])
def test_every_runtime_agrees_with_pytorch_or_says_why_it_cannot_run(
    files: Path, runtime: str, make_image: Callable[..., Image]
) -> None:
    if reason := why_not_available(runtime):
        assert reason.startswith(f"{runtime} is not available: ")
        with pytest.raises(NotAvailableError, match=f"{runtime} is not available"):
            open_model(files / file_of(runtime), runtime)
        return
    model = open_model(files / file_of(runtime), runtime, threads=1)
    reference = open_model(files / "model.pt", threads=1)
    assert (model.runtime, model.threads) == (runtime, 1)
    assert model.classes == reference.classes
    for height, width in ((64, 96), (50, 41)):
        images = np.stack([make_image(height, width, seed) for seed in range(2)])
        mask, confidence = model.predict(images)
        expected, expected_confidence = reference.predict(images)
        assert (mask.dtype, confidence.dtype) == (np.uint8, np.float32)
        assert (mask == expected).mean() > AGREEMENT[model.precision]
        assert np.abs(confidence - expected_confidence).mean() < 0.1
    again, logits = model.predict_with_logits(images)
    assert np.array_equal(again, mask)
    assert np.array_equal(logits.argmax(axis=1), mask)


def test_more_sizes_than_openvino_keeps_compiled_are_answered(
    files: Path, make_image: Callable[..., Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbrnet.inference.runtimes.exported.KEPT_SHAPES", 2)
    model = open_model(files / "model.onnx", "openvino-fp32", threads=1)
    reference = open_model(files / "model.onnx", threads=1)
    for size in (32, 33, 34, 32):
        images = make_image(size, 40)[None]
        assert (model.predict(images)[0] == reference.predict(images)[0]).mean() > 0.999


def test_openvinos_network_for_all_sizes_agrees(files: Path, make_image: Callable[..., Image]) -> None:
    file = read_exported(files / "model.onnx")
    fixed, free = OpenVinoModel(file, "fp32", 1), OpenVinoModel(file, "fp32", 1, fixed=False)
    for size in (64, 50):
        (mask, logits), (expected, expected_logits) = (
            model.predict_with_logits(make_image(size, 90)[None]) for model in (fixed, free)
        )
        assert (mask == expected).mean() > 0.999
        assert np.allclose(logits, expected_logits, atol=1e-3)


SIGNAL_AFTER_DELETED_MODELS = """
import gc, os, signal, sys
from pathlib import Path
from dbrnet.inference.runtimes import open_model

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first = open_model(Path(sys.argv[1]), "openvino-fp32")
second = open_model(Path(sys.argv[1]), "openvino-fp32")
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_models_are_deleted_is_survived(files: Path) -> None:
    words = [sys.executable, "-X", "faulthandler", "-c", SIGNAL_AFTER_DELETED_MODELS]
    ended = subprocess.run([*words, str(files / "model.onnx")], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def test_a_session_of_fixed_sizes_agrees(files: Path, make_image: Callable[..., Image]) -> None:
    """As it is opened on a GPU."""
    model = OnnxModel(read_exported(files / "model.onnx"), "cpu", 1)
    images = make_image(64, 96)[None]
    session = model.session(model._file, images.shape)
    assert (session.run(["mask"], {"image": images})[0] == model.predict(images)[0]).mean() > 0.999
    assert session.get_inputs()[0].shape == [1, 64, 96, 3]


def test_falling_back_from_a_gpu_to_the_cpu_is_an_error(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for the GPU's provider: ONNX Runtime itself says that it was forbidden."""
    monkeypatch.setitem(PROVIDERS, "cuda", PROVIDERS["cpu"])
    with pytest.raises(UserError, match=r"cuda cannot run it \(.*disabled fallback to the CPU EP"):
        OnnxModel(read_exported(files / "model.onnx"), "cuda", 1)


HOW = "in the project's folder: pip install -c constraints.txt -e '.[{}]'"


@pytest.mark.parametrize(
    ("package", "use", "message"),
    [
        (
            "openvino",
            "from dbrnet.inference.runtimes.exported import require_openvino as ask; ask('fp32')",
            "openvino-fp32 is not available: it is not installed; " + HOW.format("openvino"),
        ),
        (
            "nncf",
            "from dbrnet.inference.quantize import _nncf as ask; ask()",
            "int8 needs NNCF, which is not installed; " + HOW.format("openvino"),
        ),
        (
            "fastapi",
            "from dbrnet.commands.use import serve; serve(model='model.onnx')",
            "fastapi is not installed; " + HOW.format("serve"),
        ),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(package: str, use: str, message: str) -> None:
    script = f"import sys; sys.modules['{package}'] = None\n{use}"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1].partition(": ")[2] == message


def test_a_prediction_does_not_change_previous_outputs(files: Path, make_image: Callable[..., Image]) -> None:
    for runtime in ("onnxruntime-cpu", "openvino-fp32", "pytorch-eager"):
        model = open_model(files / file_of(runtime), runtime, threads=1)
        mask, confidence = model.predict(make_image(64, 96, 1)[None])
        kept = mask.copy(), confidence.copy()
        model.predict(make_image(64, 96, 2)[None])
        assert np.array_equal(mask, kept[0])
        assert np.array_equal(confidence, kept[1])


@pytest.mark.slow
def test_the_compiled_network_agrees(
    files: Path, make_image: Callable[..., Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured as for users, but run without PyTorch's generated code, which takes a minute to compile."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = open_model(files / "model.pt", "pytorch-compiled", threads=2)
    images = make_image(64, 96)[None]
    expected = open_model(files / "model.pt", threads=2).predict(images)[0]
    assert (model.predict(images)[0] == expected).mean() > 0.999


def test_open_all_gives_available_models_and_reasons_for_the_others(files: Path, tmp_path: Path) -> None:
    models, missing = open_all(["onnxruntime-cpu", "onnxruntime-cuda", "openvino-int8"], files, files)
    assert list(models) == ["onnxruntime-cpu", "openvino-int8"]
    assert missing == {"onnxruntime-cuda": why_not_available("onnxruntime-cuda")}
    (tmp_path / "model.onnx").write_bytes((files / "model.onnx").read_bytes())
    _, missing = open_all(["onnxruntime-cpu", "openvino-int8"], files, tmp_path)
    assert "export made no model-int8.onnx" in missing["openvino-int8"]


@pytest.mark.parametrize(
    ("file", "runtime", "message"),
    [
        ("model.onnx", "onnxruntime-gpu", "there is no runtime 'onnxruntime-gpu'; choose one of"),
        ("model.pt", "onnxruntime-cpu", r"model\.pt: onnxruntime-cpu cannot run it"),
        ("model.onnx", "pytorch-eager", r"model\.onnx: pytorch-eager cannot run it"),
        ("model.onnx", "openvino-int8", "openvino-int8 cannot run a file of fp32"),
        ("model-int8.onnx", "openvino-fp32", "openvino-fp32 cannot run a file of int8"),
    ],
)
def test_a_file_of_another_runtime_is_refused(files: Path, file: str, runtime: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_model(files / file, runtime)


def test_each_kind_of_file_has_a_default_runtime(files: Path) -> None:
    defaults = {name: open_model(files / name).runtime for name in ("model.pt", "model.onnx", "model-int8.onnx")}
    assert defaults == {
        "model.pt": "pytorch-eager",
        "model.onnx": "onnxruntime-cpu",
        "model-int8.onnx": "openvino-int8",
    }


def test_a_batch_gives_the_masks_of_its_images(exported: Exported, make_image: Callable[..., Image]) -> None:
    model = open_model(exported[0], threads=1)
    images = np.stack([make_image(50, 90, seed) for seed in range(3)])
    masks, _ = model.predict(images)
    for image, mask in zip(images, masks, strict=True):
        assert (model.predict(image[None])[0][0] == mask).mean() > 0.999


def test_missing_and_broken_files_are_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.onnx: cannot be read"):
        open_model(tmp_path / "none.onnx")
    content = exported[0].read_bytes()
    for name, data in (("empty", b""), ("text", b"not a model"), ("half", content[: len(content) // 2])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: not a readable ONNX file") as caught:
            open_model(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-fp32", "pytorch-eager"])
def test_images_too_small_or_of_another_type_are_refused(files: Path, runtime: str) -> None:
    model = open_model(files / file_of(runtime), runtime, threads=1)
    with pytest.raises(UserError, match="31x200"):
        model.predict(np.zeros((1, 31, 200, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        model.predict(np.zeros((1, 64, 64), np.uint8))
