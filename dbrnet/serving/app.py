"""The service's addresses."""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from dbrnet import __version__
from dbrnet.errors import UserError
from dbrnet.inference.runtimes.base import Answer
from dbrnet.reports.html import templates
from dbrnet.serving.answer import ErrorLine, Prediction, as_json, as_png, class_table
from dbrnet.serving.metrics import Metrics
from dbrnet.serving.refusal import Refusal
from dbrnet.serving.upload import Uploads
from dbrnet.serving.worker import Timing, Worker

GONE = 499  # nginx's status for a client that did not wait; nobody is sent it
PAGE_MAY = (  # load nothing from anywhere, ask this service, and be in no other page's frame
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILE = {"type": "string", "format": "binary"}
BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": FILE},
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": FILE}}},
    },
}

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def create_app(worker: Worker, *, model_name: str, max_bytes: int, hosts: list[str]) -> FastAPI:
    """The application: images of at most `max_bytes`, asked for under one of `hosts` ("*": any)."""
    app = FastAPI(title="DBRNet", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    uploads, metrics = Uploads(max_bytes), Metrics(worker)
    model = worker.model
    page = templates().get_template("service.html").render()

    def finish(wants_png: bool, answer: Answer, timing: Timing) -> Response:
        metrics.observe(timing)
        return as_png(answer) if wants_png else as_json(model.classes, answer, timing)

    async def answer(request: Request, bit_depth: int) -> Response:
        wants_png = "image/png" in request.headers.get("accept", "")
        try:
            async with uploads.image(request) as data:
                work = worker.answer(data, bit_depth, partial(finish, wants_png))
                return await _while_connected(request, work)
        except Refusal as refusal:
            return refusal.response
        except UserError as error:
            return Refusal(400, str(error)).response
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception:
            log.exception("an image could not be answered")
            return Refusal(500, "the model failed on this image; the service's log says why").response

    @app.post(
        "/predict",
        response_model=None,
        responses={
            200: {"model": Prediction, "content": {"image/png": {}}},
            **{status: {"model": ErrorLine} for status in (400, 408, 413, 415, 422, 500, 503)},
        },
        openapi_extra={"requestBody": BODY},
    )
    async def predict(request: Request, bit_depth: Annotated[int, Query(ge=9, le=16)] = 16) -> Response:
        """Find the defects in an image. `Accept: image/png` asks for the mask alone.

        The values of a 16-bit image are taken to be below 2**bit_depth.
        """
        response = await answer(request, bit_depth)
        metrics.count(response.status_code)
        return response

    @app.get("/model")
    async def describe_model() -> dict[str, Any]:
        """What the model's file says of itself, and where it runs."""
        return {
            "name": model_name,
            **{"runtime": model.runtime, "precision": model.precision},
            **{"device": model.device, "threads": model.threads},
            "classes": class_table(model.classes),
            "metadata": {key: value for key, value in model.metadata.items() if key != "classes"},
        }

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "live"}

    @app.get("/health/ready", responses={503: {"model": ErrorLine}})
    async def ready() -> Response:
        """Whether it takes images; 503 from the moment it is told to stop."""
        return JSONResponse({"status": "ready"}) if worker.accepting else _STOPPING.response

    @app.get("/metrics", response_model=None)
    async def show_metrics() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_MAY})

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        return Refusal(error.status_code, f"{request.url.path}: {error.detail}", error.headers).response

    @app.exception_handler(RequestValidationError)
    async def refuse_values(_: Request, error: RequestValidationError) -> JSONResponse:
        said = error.errors()[0]
        return Refusal(422, f"{said['loc'][-1]}: {said['msg']}").response

    return app


_STOPPING = Refusal(503, "the service is stopping")


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes away: then raises `ClientDisconnect`."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read: what comes next is the disconnect
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
