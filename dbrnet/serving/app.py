"""The service's routes."""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from dbrnet import __version__
from dbrnet.errors import UserError
from dbrnet.inference.runtimes.base import Answer
from dbrnet.reports.html import render
from dbrnet.serving.responses import ErrorLine, Prediction, Refusal, Timing, as_json, as_png, class_table
from dbrnet.serving.upload import Uploads
from dbrnet.serving.worker import Metrics, Worker

GONE = 499  # nginx's status for a client that did not wait; nobody receives it
PAGE_POLICY = (  # the page loads nothing, sends requests to this service alone, and stands in no frame
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


def create_app(worker: Worker, *, model_name: str, max_bytes: int, hosts: list[str]) -> FastAPI:
    """The application, for images of at most `max_bytes` and requests to one of `hosts` ("*": any)."""
    app = FastAPI(title="DBRNet", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    metrics = Metrics(worker)
    _add_prediction(app, worker, Uploads(max_bytes), metrics)
    _add_descriptions(app, worker, model_name)

    @app.get("/metrics", response_model=None)
    async def show_metrics() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        return Refusal(error.status_code, f"{request.url.path}: {error.detail}", error.headers).response

    @app.exception_handler(RequestValidationError)
    async def refuse_values(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return Refusal(422, f"{first['loc'][-1]}: {first['msg']}").response

    return app


def _add_prediction(app: FastAPI, worker: Worker, uploads: Uploads, metrics: Metrics) -> None:
    def finish(wants_png: bool, answer: Answer, timing: Timing) -> Response:
        metrics.observe(timing)
        return as_png(answer) if wants_png else as_json(worker.model.classes, answer, timing)

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
        """Find the defects in an image. With `Accept: image/png` the response is the mask alone.

        The values of a 16-bit image are below 2**bit_depth.
        """
        response = await answer(request, bit_depth)
        metrics.count(response.status_code)
        return response


def _add_descriptions(app: FastAPI, worker: Worker, model_name: str) -> None:
    model, page = worker.model, render("service.html", title="DBRNet: defects in an image")

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/model")
    async def describe_model() -> dict[str, Any]:
        """The model's metadata, and where it runs."""
        return {
            "name": model_name,
            **{key: getattr(model, key) for key in ("runtime", "precision", "device", "threads")},
            "classes": class_table(model.classes),
            "metadata": {key: value for key, value in model.metadata.items() if key != "classes"},
        }

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """200 while the service runs."""
        return {"status": "live"}

    @app.get("/health/ready", responses={503: {"model": ErrorLine}})
    async def ready() -> Response:
        """Whether it accepts images; 503 once it has begun to stop."""
        return (
            JSONResponse({"status": "ready"}) if worker.accepting else Refusal(503, "the service is stopping").response
        )


async def _while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of `work`; where the client disconnects, cancels it and raises `ClientDisconnect`."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read, so the next message is the disconnect
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
