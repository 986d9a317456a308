"""The interface of every runtime: images in, class ids and confidence out."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError

Images = NDArray[np.uint8]  # [N, H, W, 3], RGB
Mask = NDArray[np.uint8]  # class ids [N, H, W]
Answer = tuple[Mask, NDArray[np.float32]]  # the mask, and the confidence [N, H, W] in 0 to 1
Logits = NDArray[np.float32]  # [N, C, H, W]


class Model(Protocol):
    """A trained network, loaded in some runtime; safe to call from one thread at a time.

    - `runtime`: its name, such as "onnxruntime-cpu";
    - `precision`: "fp32", "bf16" or "int8", of most of the arithmetic;
    - `device`: "cpu", "cuda" or "tensorrt";
    - `threads`: the number of CPU threads that it may use;
    - `classes`: those of its masks, by id;
    - `metadata`: the metadata of the exported file, as text; empty for a model.pt.
    """

    runtime: str
    precision: str
    device: str
    threads: int
    classes: tuple[ClassInfo, ...]
    metadata: dict[str, str]

    def predict(self, images: Images) -> Answer:
        """Class ids and confidence of images uint8 RGB [N, H, W, 3]; returns when they are computed.

        Raises `UserError` for images with a side below 32, `ValueError` for anything but such arrays.
        """
        ...

    def predict_with_logits(self, images: Images) -> tuple[Mask, Logits]:
        """Class ids, and the logits float32 [N, C, H, W] that they follow from; slower, for measuring parity."""
        ...


class NotAvailableError(UserError):
    """This machine or installation lacks the runtime."""


def check_images(images: Images) -> None:
    """Raise as `Model.predict` says where `images` are not uint8 [N, H, W, 3] with sides of MINIMUM_SIDE or more."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    height, width = images.shape[1:3]
    if min(height, width) < MINIMUM_SIDE:
        raise UserError(f"an image of {height}x{width} is too small; both sides must be at least {MINIMUM_SIDE}")
