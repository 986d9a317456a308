"""What a client is sent for an image: its mask, its defects and the times, as JSON or as a PNG."""

import base64
from collections.abc import Sequence
from typing import Any

import cv2
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from dbrnet.data.dataset import ClassInfo, Mask
from dbrnet.inference.runtimes.base import Answer
from dbrnet.inference.tables import find_defects
from dbrnet.serving.worker import Timing

PNG_LEVEL = 1  # of 9: masks are flat, so more costs time and saves next to nothing


class ClassEntry(BaseModel):
    """A class that the model knows."""

    id: int = Field(description="its pixels' value in the mask; 0 is the background")
    name: str
    color: str = Field(description="#rrggbb")


class FoundDefect(BaseModel):
    """Pixels of one class that hang together."""

    class_id: int
    class_name: str
    bbox: tuple[int, int, int, int] = Field(description="left, top, width, height in pixels")
    area: int = Field(description="pixels")
    score: float = Field(description="the network's mean confidence in them, 0 to 1")


class Prediction(BaseModel):
    """The answer to an image."""

    height: int
    width: int
    defects: list[FoundDefect] = Field(description="the largest first")
    classes: list[ClassEntry]
    mask: str = Field(description="class ids [height, width] as an 8-bit PNG, in base64")
    milliseconds: dict[str, float] = Field(description="waiting for the model, and inference")


class ErrorLine(BaseModel):
    """The answer to a request that is refused."""

    error: str


def class_table(classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """Each class by its id, as JSON values."""
    return [
        {"id": number, "name": info.name, "color": "#{:02x}{:02x}{:02x}".format(*info.color)}
        for number, info in enumerate(classes)
    ]


def as_json(classes: Sequence[ClassInfo], answer: Answer, timing: Timing) -> Response:
    """A `Prediction`, from the model's answer to one image."""
    mask, confidence = answer[0][0], answer[1][0]
    defects = find_defects(mask, confidence, classes)
    return JSONResponse(
        {
            "height": mask.shape[0],
            "width": mask.shape[1],
            "defects": [defect.to_dict() for defect in defects],
            "classes": class_table(classes),
            "mask": base64.b64encode(_encode(mask)).decode(),
            "milliseconds": {"waiting": round(1e3 * timing.waiting, 2), "inference": round(1e3 * timing.inference, 2)},
        }
    )


def as_png(answer: Answer) -> Response:
    """The mask alone."""
    return Response(_encode(answer[0][0]), media_type="image/png")


def _encode(mask: Mask) -> bytes:
    return cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()
