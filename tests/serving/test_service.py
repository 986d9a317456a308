"""`dbrnet serve` as its users meet it: what it answers, and what it makes of whatever else it is sent."""

import base64
import io
import json
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from dbrnet.cli import main
from dbrnet.data.dataset import Image
from dbrnet.inference.images import decode_image
from dbrnet.inference.runtimes import open_model
from dbrnet.inference.tables import find_defects
from tests.conftest import Exported
from tests.serving.conftest import Service, png, running, serve, wait_until

FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%s\r\n--b--\r\n'
FORM_TYPE = "multipart/form-data; boundary=b"


def test_the_response_equals_the_models_answer(
    service: Service, exported: Exported, make_image: Callable[..., Image]
) -> None:
    model, data = open_model(exported[0]), png(make_image(120, 160))
    masks, confidences = model.predict(decode_image(data, "a")[None])
    defects = [defect.to_dict() for defect in find_defects(masks[0], confidences[0], model.classes)]
    assert len(defects) > 1
    reply = service.predict(data)
    assert reply.status == 200
    said = reply.json
    mask = cv2.imdecode(np.frombuffer(base64.b64decode(said["mask"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    np.testing.assert_array_equal(mask, masks[0])
    assert said["defects"] == defects
    assert (said["height"], said["width"]) == (120, 160)
    assert said["classes"][1] == {"id": 1, "name": "crack", "color": "#e63c28"}
    assert said["milliseconds"]["inference"] > 0
    form = service.predict(FORM % data, FORM_TYPE)
    assert (form.json["mask"], form.json["defects"]) == (said["mask"], said["defects"])
    alone = service.predict(data, Accept="image/png")
    assert alone.headers["Content-Type"] == "image/png"
    assert alone.body == base64.b64decode(said["mask"])


def test_responses_match_the_schema(service: Service, make_image: Callable[..., Image]) -> None:
    schemas = service.ask("/openapi.json").json["components"]["schemas"]
    said = service.predict(png(make_image(64, 64))).json
    assert set(said) == set(schemas["Prediction"]["properties"])
    assert set(said["defects"][0]) == set(schemas["FoundDefect"]["properties"])
    assert set(service.predict(b"").json) == set(schemas["ErrorLine"]["properties"])


def test_health_model_and_metrics(service: Service, exported: Exported, make_image: Callable[..., Image]) -> None:
    assert service.ask("/health/live").json == {"status": "live"}
    assert service.ask("/health/ready").json == {"status": "ready"}
    said = service.ask("/model").json
    assert said["name"] == "model.onnx"
    assert (said["runtime"], said["precision"]) == ("onnxruntime-cpu", "fp32")
    assert said["metadata"]["dataset_content_hash"] == "4d5e"
    assert [item["name"] for item in said["classes"]] == ["background", "crack", "pit", "scratch"]
    names = {
        'dbrnet_requests_total{status="200"}': 2,
        'dbrnet_requests_total{status="400"}': 1,
        "dbrnet_inference_seconds_count": 2,
        "dbrnet_waiting_seconds_count": 2,
    }
    before = {name: service.metric(name) for name in names}
    assert service.predict(png(make_image(64, 64))).status == 200
    assert service.predict(png(make_image(64, 64)), Accept="image/png").status == 200
    assert service.predict(b"").status == 400
    assert {name: service.metric(name) - before[name] for name in names} == names
    assert service.metric("dbrnet_queue_length") == 0
    text = service.ask("/metrics").body.decode()
    assert 'dataset_content_hash="4d5e"' in text
    for everything in (text, json.dumps(said)):
        assert str(exported[0].parent) not in everything


def declared_png(height: int, width: int) -> bytes:
    """A PNG of a hundred bytes that says it is this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    scan = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", scan) + chunk(b"IEND", b"")


def saved(mode: str, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8)
    Pillow.fromarray(noise).convert(mode).save(file, kind, **options)
    return file.getvalue()


def frames() -> list[Pillow.Image]:
    return [Pillow.new("L", (80, 64), shade) for shade in (9, 99)]


def sixteen_bit() -> bytes:
    values = np.random.default_rng(0).integers(0, 2**16, (64, 80)).astype(np.uint16)
    return cv2.imencode(".png", values)[1].tobytes()


REFUSED = {
    "zero bytes": b"",
    "text": b"no image",
    "truncated jpeg": saved("RGB", "JPEG")[:-300],
    "truncated png": saved("RGB", "PNG")[:-300],
    "100 megapixels": declared_png(10_000, 10_000),
    "header of a png alone": saved("RGB", "PNG")[:33],
    "too small": cv2.imencode(".png", np.zeros((20, 200), np.uint8))[1].tobytes(),
    "animated gif": saved("P", "GIF", save_all=True, append_images=frames()),
    "animated png": saved("L", "PNG", save_all=True, append_images=frames()),
    "animated webp": saved("RGB", "WEBP", save_all=True, append_images=frames()),
    "tiff of several pages": saved("L", "TIFF", save_all=True, append_images=frames()),
}
IMAGES = REFUSED | {
    "grey": saved("L", "PNG"),
    "bilevel": saved("1", "PNG"),
    "16-bit": sixteen_bit(),
    "palette": saved("P", "PNG"),
    "with alpha": saved("RGBA", "PNG"),
    "cmyk": saved("CMYK", "JPEG"),
    "cmyk tiff": saved("CMYK", "TIFF"),
    "bmp": saved("RGB", "BMP"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_image_is_answered_or_refused_in_one_line(service: Service, name: str) -> None:
    reply = service.predict(IMAGES[name])
    assert reply.status == (400 if name in REFUSED else 200)
    if name in REFUSED:
        assert list(reply.json) == ["error"]
        assert reply.json["error"].startswith(("the image", "an image"))
        assert "\n" not in reply.json["error"]
        assert "Traceback" not in reply.json["error"]
    assert service.ask("/health/ready").status == 200


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("text/html", b"x", 415, "not 'text/html'"),
        ("", b"x", 415, "Content-Type image/png"),
        (FORM_TYPE, b"--b--\r\n", 400, "holds no file"),
        (FORM_TYPE, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--b--\r\n', 400, "no file"),
        (FORM_TYPE, b"nonsense", 400, "form"),
        ("multipart/form-data", b"--b--\r\n", 400, "boundary"),
        ("image/png", b"x" * 2**20, 400, "the image"),
        ("image/png", b"x" * (2**20 + 1), 413, "larger than 1 MiB"),
        (FORM_TYPE, FORM % (b"x" * 2**20), 413, "larger than 1 MiB"),
    ],
)
def test_malformed_requests_are_refused(service: Service, kind: str, body: bytes, status: int, message: str) -> None:
    reply = service.predict(body, kind)
    assert reply.status == status
    assert message in reply.json["error"]


def test_an_undeclared_size_is_refused_while_reading(service: Service) -> None:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    connection.sendall(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk, rest, answer, sent = b"10000\r\n" + b"x" * 0x10000 + b"\r\n", b"", b"", 0
    connection.setblocking(False)
    while not answer:
        with suppress(BlockingIOError):
            answer = connection.recv(1000)
        with suppress(BlockingIOError, ConnectionError):  # it may be cut off when it has answered
            rest = rest or chunk
            count = connection.send(rest)  # perhaps not all of it
            rest, sent = rest[count:], sent + count
        assert sent < 20 * 2**20  # it never ends; the answer comes in its midst
    assert answer.startswith(b"HTTP/1.1 413 ")
    connection.close()


def test_bit_depth_of_16_bit_images(service: Service) -> None:
    twelve = cv2.imencode(".png", np.full((64, 64), 3000, np.uint16))[1].tobytes()
    assert "12 of 16 bits" in service.predict(twelve).json["error"]
    assert service.predict(twelve, path="/predict?bit_depth=12").status == 200
    for wrong in ("40", "x"):
        reply = service.predict(twelve, path=f"/predict?bit_depth={wrong}")
        assert (reply.status, reply.json["error"].split(":")[0]) == (422, "bit_depth")


def test_other_paths_hosts_and_headers(service: Service) -> None:
    assert service.ask("/predict").json == {"error": "/predict: Method Not Allowed"}
    for path in ("/docs", "/redoc", "/nothing", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//x"):
        assert service.ask(path).status == 404, path
    assert service.ask("/model", Host="localhost").status == 200
    assert service.ask("/model", Host="evil.example").status == 400
    with suppress(ConnectionError):  # it may be sent away in the midst of sending
        assert service.ask("/model", Filler="x" * 10_000_000).status == 400
    assert service.ask("/health/ready").status == 200


def test_the_page_loads_nothing_from_elsewhere(service: Service) -> None:
    reply = service.ask("/")
    text = reply.body.decode()
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "://" not in text.replace("http://www.w3.org", "")
    for loading in ('<link rel="stylesheet', "<script src", "@import", "url("):
        assert loading not in text


def test_a_taken_port_and_a_wrong_file_are_user_errors(
    service: Service, exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (("--model", str(exported[0]), "--port", str(service.port)), "Address already in use"),
        (("--model", "none.onnx", "--port", "0"), "none.onnx: cannot be read"),
        (("--model", str(exported[0]), "--queue", "0"), "must be at least 1"),
    ):
        assert main(["serve", *options]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


@pytest.mark.slow
def test_many_idle_connections_do_not_block_images(exported: Exported, make_image: Callable[..., Image]) -> None:
    with running(*serve(exported[0])) as service:
        data = png(make_image(64, 64))
        idle = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(600)]
        wait_until(lambda: service.ask("/health/live").status == 503)  # more than it takes
        refused = service.ask("/health/live")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.json == {"error": "too many connections are open; send it again in a second"}
        wait_until(lambda: service.ask("/health/live").status == 200)  # until their time is over
        assert service.predict(data).status == 200
        for connection in idle:
            connection.close()
