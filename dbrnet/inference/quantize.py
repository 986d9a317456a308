"""int8 by NNCF's post-training quantisation of the exported file, within a budget of accuracy.

The result is an ONNX file of the same inputs, outputs and metadata. Its convolutions stand between pairs of
QuantizeLinear and DequantizeLinear, which OpenVINO turns into int8 kernels. The nodes after the logits at 1/8 of the
image are not quantized: they are little work, and they decide the class.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from dbrnet.data.dataset import Image
from dbrnet.errors import UserError, install_hint
from dbrnet.files import write_atomically
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.inference.runtimes.exported import OpenVinoModel, read_exported, require_openvino

RANKING_IMAGES = 100  # of the val split, to estimate each convolution's share in the loss

# A model and the ids of images in; the mIoU over them, and a figure for each image, such as its accuracy, out.
Score = Callable[[Model, Sequence[str]], tuple[float, list[float]]]


class TooLossyError(UserError):
    """No file in int8 keeps within the budget of accuracy."""


@dataclass(frozen=True)
class Quantized:
    """The outcome, in mIoU on the val split."""

    miou: float  # of the file in float32
    loss_of_all: float  # with all convolutions in int8
    loss: float  # of the file as written
    kept: tuple[str, ...]  # convolutions left in higher precision, by the names of their weights
    convolutions: int

    def require_within(self, max_loss: float) -> None:
        """Raise `TooLossyError` where more than `max_loss` is lost, or the budget is only met with nothing in int8."""
        quantized = self.convolutions - len(self.kept)
        if self.loss > max_loss or not quantized:
            raise TooLossyError(
                f"int8 loses {self.loss_of_all:.4f} of mIoU on val with all {self.convolutions} convolutions, "
                f"{self.loss:.4f} with {quantized} of them, and may lose {max_loss:g}; "
                "allow more by export.max_int8_loss, or leave openvino-int8 out of export.runtimes"
            )


def quantize(
    exported: Path, out: Path, *, calibration: Sequence[Image], validation: Sequence[str], score: Score, max_loss: float
) -> Quantized:
    """Write `exported` in int8 to `out`, with as many convolutions in int8 as the budget allows.

    `calibration`: images of the train split, which set the activations' ranges. `validation`: ids of the val split, on
    which `score` measures. Where all convolutions in int8 lose more than `max_loss` of mIoU, those that cost most
    return to higher precision, one after the other.

    Raises `NotAvailableError` without OpenVINO or NNCF, and `TooLossyError`, with no file, outside the budget.
    """
    nncf, file = _nncf(), read_exported(exported)
    plain = onnx.ModelProto.FromString(file.data)
    metadata = file.metadata | {"precision": "int8"}
    whole: list[float] = []  # mIoU on all of `validation`: of the float32 file, of all convolutions in int8, ...

    def validate(model: onnx.ModelProto, ids: Iterable[str]) -> tuple[float, list[float]]:
        int8 = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        candidate = replace(file, data=model.SerializeToString(), metadata=metadata if int8 else file.metadata)
        chosen = list(ids)
        # Not fixed: a split may hold as many sizes as images.
        miou, by_image = score(OpenVinoModel(candidate, "int8" if int8 else "fp32", fixed=False), chosen)
        if len(chosen) == len(validation):  # NNCF tries single images, too
            whole.append(miou)
        return miou, by_image

    restorer = nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=RANKING_IMAGES)
    # The whole range that was seen: defects are few, and a range averaged over images, NNCF's default, cuts them off.
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    with _without_its_bars():
        quantized = nncf.quantize_with_accuracy_control(
            plain,
            nncf.Dataset([{"image": image[None]} for image in calibration]),
            nncf.Dataset(list(validation)),
            validate,
            max_drop=max_loss,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=_nodes_after_the_convolutions(plain)),
            advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges
            ),
            advanced_accuracy_restorer_parameters=restorer,
        )
    after, _ = validate(quantized, validation)
    outcome = Quantized(
        miou=whole[0],
        loss_of_all=whole[0] - whole[1],
        loss=whole[0] - after,
        kept=_kept(plain, quantized),
        convolutions=sum(node.op_type == "Conv" for node in plain.graph.node),
    )
    outcome.require_within(max_loss)
    onnx.helper.set_model_props(quantized, metadata | {"val_miou": f"{after:.4f}"})  # of the int8 file
    write_atomically(out, quantized.SerializeToString(deterministic=True))
    return outcome


def _kept(plain: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[str, ...]:
    """The convolutions of `quantized` with an input in higher precision, by the names of their weights in `plain`."""
    weights = {node.name: node.input[1] for node in plain.graph.node if node.op_type == "Conv"}
    nodes = quantized.graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    kept = [node.name for node in nodes if node.op_type == "Conv" and not dequantized.issuperset(node.input[:2])]
    return tuple(weights[name].removeprefix("network.").removesuffix(".weight") for name in kept)


def _nncf() -> Any:
    require_openvino("int8")
    try:
        nncf = importlib.import_module("nncf")
    except ImportError:
        raise NotAvailableError(f"int8 needs NNCF, which is not installed; {install_hint('openvino')}") from None
    nncf.set_log_level(logging.ERROR)
    return nncf


@contextmanager
def _without_its_bars() -> Iterator[None]:
    """NNCF draws bars of its own on Rich's console; how far the scoring is, our own progress tells."""
    import rich  # NNCF requires it

    console = rich.get_console()
    quiet, console.quiet = console.quiet, True
    try:
        with redirect_stdout(sys.stderr):  # what else it prints
            yield
    finally:
        console.quiet = quiet


def _nodes_after_the_convolutions(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes that the output of the last convolution does not depend on."""
    producers = {output: node for node in model.graph.node for output in node.output}
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]  # they are sorted by dependence
    before, waiting = {last.name}, list(last.input)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in before:
            before.add(node.name)
            waiting += node.input
    return [node.name for node in model.graph.node if node.name not in before]
