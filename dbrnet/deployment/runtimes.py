"""The two ways to run a trained network: the exported file through ONNX Runtime, and PyTorch itself.

Both take pictures and give answers in the same form, so that they can be compared and swapped.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo
from dbrnet.deployment.export import MINIMUM_SIDE, PRODUCER, DeployedModel
from dbrnet.errors import UserError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.provenance import available_cores

Images = NDArray[np.uint8]  # [N, H, W, 3], RGB
Answer = tuple[NDArray[np.uint8], NDArray[np.float32]]  # class ids [N, H, W], confidence [N, H, W] in 0 to 1

# Full float32 on a GPU too: by default both runtimes round to TF32 there, which costs parity.
PROVIDERS = {"CUDAExecutionProvider": {"use_tf32": "0"}, "CPUExecutionProvider": {}}

onnxruntime.disable_telemetry_events()


class Runtime(Protocol):
    """What a batch of pictures is given to."""

    def predict(self, images: Images) -> Answer:
        """Class ids and confidence of pictures uint8 RGB [N, H, W, 3]; returns when they are computed."""
        ...


class OnnxModel:
    """An exported network in ONNX Runtime, on the GPU where the installed runtime has one, else the CPU.

    `metadata` holds what the export wrote into the file, as text; `classes` are those of its answers.
    Raises `UserError` where the file is missing, broken or not an export of ours.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.threads = threads or available_cores()
        self._session = _open_session(path, self.threads)
        self.provider: str = self._session.get_providers()[0]
        meta = self._session.get_modelmeta()
        if meta.producer_name != PRODUCER:
            raise UserError(f"{path}: an ONNX file, but not one that `dbrnet export` wrote; export the model")
        self.metadata: dict[str, str] = dict(meta.custom_metadata_map)
        self.classes: tuple[ClassInfo, ...] = tuple(
            ClassInfo(item["name"], tuple(item["color"])) for item in json.loads(self.metadata["classes"])
        )

    def predict(self, images: Images) -> Answer:
        """Class ids and confidence of pictures uint8 RGB [N, H, W, 3], sides of 32 and more."""
        _check_images(images)
        mask, confidence = self._session.run(["mask", "confidence"], {"image": images})
        return mask, confidence


class TorchModel:
    """A network in PyTorch's eager mode, with the same picture in and answer out as the exported file.

    `threads` and full float32 on a GPU are PyTorch's own settings and so hold for the whole process.
    """

    def __init__(self, model: DBRNet, meta: ModelMeta, threads: int | None = None) -> None:
        self.threads = threads or available_cores()
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.classes = meta.classes
        self._deployed = DeployedModel(model, meta).to(self.device)

    @torch.inference_mode()
    def predict(self, images: Images) -> Answer:
        """Class ids and confidence of pictures uint8 RGB [N, H, W, 3], sides of 32 and more."""
        _check_images(images)
        mask, confidence = self._deployed(torch.from_numpy(images).to(self.device))
        return mask.cpu().numpy(), confidence.cpu().numpy()  # .cpu() waits for the device


def _open_session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only; what concerns the user comes as an exception
    available = onnxruntime.get_available_providers()
    providers = [(name, settings) for name, settings in PROVIDERS.items() if name in available]
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None
    except Exception as error:  # ONNX Runtime's exceptions share no narrower class
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable ONNX file ({reason}); export the model again") from None


def _check_images(images: Images) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    height, width = images.shape[1:3]
    if min(height, width) < MINIMUM_SIDE:
        raise UserError(
            f"a picture of {height}x{width} is too small; both sides must be at least {MINIMUM_SIDE}"
        )
