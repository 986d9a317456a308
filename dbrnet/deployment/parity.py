"""Does the exported file say what the network says? Measured on the file itself, on real pictures."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from dbrnet.data.dataset import Image
from dbrnet.deployment.export import DeployedModel
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta


@dataclass(frozen=True)
class Parity:
    """How far the exported file's answers lie from PyTorch's."""

    max_logit_difference: float
    max_confidence_difference: float
    equal_pixels: float  # the share of pixels with the same class, over all pictures
    images: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.inference_mode()
def measure_parity(path: Path, model: DBRNet, meta: ModelMeta, images: Iterable[Image]) -> Parity:
    """Run the file at `path` and `model` on pictures uint8 RGB [H, W, 3], each at its own size.

    The logits are compared inside the file's own graph: a copy in memory names them as a third output.
    Raises ValueError where there is no picture.
    """
    session = _session_with_logits(path)
    reference = DeployedModel(model, meta)
    logit_difference = confidence_difference = 0.0
    equal = pixels = count = 0
    for image in images:
        batch = np.ascontiguousarray(image[None])
        mask, confidence, logits = session.run(None, {"image": batch})
        expected = reference.logits(torch.from_numpy(batch))
        expected_mask, expected_confidence = reference.answer(expected)
        logit_difference = _larger(logit_difference, logits, expected.numpy())
        confidence_difference = _larger(confidence_difference, confidence, expected_confidence.numpy())
        equal += int((mask == expected_mask.numpy()).sum())
        pixels += mask.size
        count += 1
    if not count:
        raise ValueError("parity needs at least one picture")
    return Parity(logit_difference, confidence_difference, equal / pixels, count)


def _larger(former: float, actual: Any, expected: Any) -> float:
    # np.maximum keeps a NaN, which a plain max() could lose.
    return float(np.maximum(former, np.abs(actual - expected).max()))


def _session_with_logits(path: Path) -> Any:
    model = onnx.load_model(path)
    (choice,) = (node for node in model.graph.node if node.op_type == "ArgMax")
    logits = onnx.helper.make_tensor_value_info(choice.input[0], onnx.TensorProto.FLOAT, None)
    model.graph.output.append(logits)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
