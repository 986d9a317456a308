"""What a client receives: a mask with its defects and times as JSON or PNG, or the reason for a refusal."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from dbrnet.data.dataset import ClassInfo, Mask
from dbrnet.errors import one_line
from dbrnet.inference.runtimes.base import Answer
from dbrnet.inference.tables import find_defects

PNG_LEVEL = 1  # of 9: masks are flat, so more costs time and saves almost nothing


@dataclass(frozen=True)
class Timing:
    """Seconds that an image took."""

    waiting: float  # from its arrival to the start of its inference
    inference: float


class ClassEntry(BaseModel):
    """A class of the model."""

    id: int = Field(description="its pixels' value in the mask; 0 is the background")
    name: str
    color: str = Field(description="#rrggbb")


class FoundDefect(BaseModel):
    """Connected pixels of one class."""

    class_id: int
    class_name: str
    bbox: tuple[int, int, int, int] = Field(description="left, top, width, height in pixels")
    area: int = Field(description="pixels")
    score: float = Field(description="the network's mean confidence in them, 0 to 1")


class Prediction(BaseModel):
    """The response to an image."""

    height: int
    width: int
    defects: list[FoundDefect] = Field(description="the largest first")
    classes: list[ClassEntry]
    mask: str = Field(description="class ids [height, width] as an 8-bit PNG, in base64")
    milliseconds: dict[str, float] = Field(description="waiting for the model, and inference")


class ErrorLine(BaseModel):
    """The response to a request that is refused."""

    error: str


class Refusal(Exception):  # noqa: N818  (a response, not a fault of the service)
    """Ends a request with `status` and {"error": message}."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self._headers = headers

    @property
    def response(self) -> JSONResponse:
        """What the client receives."""
        return JSONResponse(ErrorLine(error=one_line(str(self))).model_dump(), self.status, self._headers)


def busy(reason: str) -> Refusal:
    """503 with the advice to retry in a second."""
    return Refusal(503, f"{reason}; send it again in a second", {"Retry-After": "1"})


def class_table(classes: Sequence[ClassInfo]) -> list[ClassEntry]:
    """Each class by its id."""
    return [
        ClassEntry(id=number, name=info.name, color="#{:02x}{:02x}{:02x}".format(*info.color))
        for number, info in enumerate(classes)
    ]


def as_json(classes: Sequence[ClassInfo], answer: Answer, timing: Timing) -> Response:
    """A `Prediction`, from the model's answer to one image."""
    mask, confidence = answer[0][0], answer[1][0]
    prediction = Prediction(
        height=mask.shape[0],
        width=mask.shape[1],
        defects=[FoundDefect(**defect.to_dict()) for defect in find_defects(mask, confidence, classes)],
        classes=class_table(classes),
        mask=base64.b64encode(_png(mask)).decode(),
        milliseconds={"waiting": round(1e3 * timing.waiting, 2), "inference": round(1e3 * timing.inference, 2)},
    )
    return Response(prediction.model_dump_json(), media_type="application/json")


def as_png(answer: Answer) -> Response:
    """The mask alone."""
    return Response(_png(answer[0][0]), media_type="image/png")


def _png(mask: Mask) -> bytes:
    return cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()
