"""Who waits, who is refused and who is forgotten, with a model that answers when it is told to."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.serving.conftest import Reply, Service, png, running, wait_until

pytestmark = pytest.mark.slow

GATED = str(Path(__file__).parent / "gated_service.py")


def square(side: int) -> bytes:
    return png(np.full((side, side, 3), 128, np.uint8))


class Waiting:
    """An image of `side` that is being asked about; `reply` waits for its answer."""

    def __init__(self, service: Service, side: int) -> None:
        before = service.metric("dbrnet_queue_length")
        self._replies: list[Reply] = []
        self._thread = threading.Thread(target=lambda: self._replies.append(service.predict(square(side))))
        self._thread.start()
        wait_until(lambda: service.metric("dbrnet_queue_length") == before + 1)

    @property
    def reply(self) -> Reply:
        self._thread.join()
        return self._replies[0]


def asked(service: Service) -> str:
    """The next image that the model is asked about."""
    assert service.process.stdout
    return service.process.stdout.readline().strip()


def tell(service: Service, *words: str) -> None:
    assert service.process.stdin
    for word in words:
        service.process.stdin.write(f"{word}\n")
    service.process.stdin.flush()


def send_head(service: Service, length: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """With four places."""
    with running(GATED, "4") as started:
        yield started


@contextmanager
def one_in_the_model(service: Service) -> Iterator[Waiting]:
    waiting = Waiting(service, 40)
    assert asked(service) == "asked 40x40"
    yield waiting
    assert waiting.reply.status == 200
    wait_until(lambda: service.metric("dbrnet_queue_length") == 0)


def test_a_full_queue_refuses_and_answers_the_waiting(service: Service) -> None:
    with one_in_the_model(service):
        others = [Waiting(service, side) for side in (41, 42, 43)]
        refused = [service.predict(square(44)) for _ in range(3)]
        assert [reply.status for reply in refused] == [503] * 3
        assert {reply.headers["Retry-After"] for reply in refused} == {"1"}
        assert refused[0].json == {"error": "4 images are waiting already; send it again in a second"}
        assert service.metric("dbrnet_queue_length") == service.metric("dbrnet_queue_places") == 4
        assert service.ask("/health/ready").status == 200  # the event loop is free
        tell(service, "go", "go", "go", "go")
        assert [waiting.reply.status for waiting in others] == [200] * 3
    assert sorted(asked(service) for _ in others) == ["asked 41x41", "asked 42x42", "asked 43x43"]
    assert service.metric('dbrnet_requests_total{status="503"}') == 3


@pytest.mark.parametrize("before", [0, 1], ids=["decoded already", "not yet decoded"])
def test_a_disconnected_client_costs_no_inference(service: Service, before: int) -> None:
    gone = 'dbrnet_requests_total{status="499"}'
    counted = service.metric(gone)
    with one_in_the_model(service):
        first = [Waiting(service, 41) for _ in range(before)]
        data = square(42)
        leaving = send_head(service, len(data))
        leaving.sendall(data)
        wait_until(lambda: service.metric("dbrnet_queue_length") == 2 + before)
        last = Waiting(service, 43)
        leaving.close()
        wait_until(lambda: service.metric(gone) == counted + 1)
        assert service.metric("dbrnet_queue_length") == 2 + before
        tell(service, *["go"] * (2 + before))
        assert last.reply.status == 200
        assert [waiting.reply.status for waiting in first] == [200] * before
    expected = ["asked 41x41"] * before + ["asked 43x43"]
    assert [asked(service) for _ in expected] == expected


def test_a_failing_model_is_500_and_the_next_image_is_answered(service: Service) -> None:
    tell(service, "fail", "go")
    failed = service.predict(square(40))
    assert failed.status == 500
    assert failed.json == {"error": "the model failed on this image; the service's log says why"}
    wait_until(lambda: any("a secret of the model's" in line for line in service.errors))
    answered = service.predict(square(41))
    assert answered.status == 200
    assert [item["area"] for item in answered.json["defects"]] == [41 * 41]
    assert [asked(service), asked(service)] == ["asked 40x40", "asked 41x41"]


def test_slow_and_silent_clients_are_disconnected() -> None:
    with running(GATED, "1", "UPLOAD_SECONDS=1.5", "HEADER_SECONDS=1.5", "TOGETHER=1") as service:
        silent = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        half = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-")
        stuck = send_head(service, 10_000)
        stuck.sendall(b"x" * 5_000)
        tell(service, "go")
        assert service.predict(square(40)).status == 200  # the only place is free
        with stuck.makefile("rb") as answer:
            said = answer.read()
        assert said.startswith(b"HTTP/1.1 408 ")
        assert said.endswith(b'{"error":"the image was not there in 2 s"}')
        assert silent.recv(1) == half.recv(1) == b""
        for connection in (silent, half, stuck):
            connection.close()


def test_the_memory_of_all_uploads_is_bounded() -> None:
    with running(GATED, "1", "TOGETHER=1") as service:
        first = send_head(service, 700_000)
        first.sendall(b"x" * 600_000)
        replies: list[Reply] = []
        wait_until(lambda: replies.append(service.predict(b"x" * 600_000)) or replies[-1].status == 503)  # type: ignore[func-returns-value]
        assert replies[-1].headers["Retry-After"] == "1"
        assert "too many images" in replies[-1].json["error"]
        tell(service, "go")
        assert service.predict(square(40)).status == 200  # a small one finds room
        first.close()
        wait_until(lambda: service.predict(b"x" * 600_000).status == 400)  # and then a large one


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_answers_the_queued_images(number: signal.Signals) -> None:
    with running(GATED, "4") as service:
        kept = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        waiting = [Waiting(service, 40)]
        assert asked(service) == "asked 40x40"  # before the others come: images are decoded side by side
        waiting += [Waiting(service, side) for side in (41, 42)]
        service.process.send_signal(number)
        wait_until(lambda: not is_ready(service))
        assert service.process.poll() is None
        tell(service, "go", "go", "go")
        assert [image.reply.status for image in waiting] == [200] * 3
        assert service.process.wait(60) == 0
        kept.close()


def is_ready(service: Service) -> bool:
    try:
        return service.ask("/health/ready").status == 200
    except ConnectionError:
        return False
