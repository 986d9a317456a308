"""How an address is shown: every form that one has here, alone and in the words of libraries."""

import io
import logging

import pytest

from dbrnet.addresses import RedactedOutput, RedactingFormatter, holds_password, redact
from dbrnet.errors import JobError, UserError

SHOWN = {
    "https://ann:SECRET@data.example:8443/set/raw.zip": "https://data.example:8443/set/raw.zip",
    "https://data.example/raw.zip?X-Amz-Signature=SECRET&X-Amz-Expires=60": "https://data.example/raw.zip",
    "https://data.example/raw.zip#SECRET": "https://data.example/raw.zip",
    "https://SECRET@git.example/org/data.git@0123abc": "https://git.example/org/data.git@0123abc",
    "ssh://git:SECRET@git.example:22/data.git": "ssh://git.example:22/data.git",
    "git@git.example:org/data.git": "git@git.example:org/data.git",
    "http://ann:SECRET@[::1]:5000/a@b": "http://[::1]:5000/a@b",
    "http://[::1]:5000/a@b": "http://[::1]:5000/a@b",
    "HTTPS://ann:SECRET@data.example": "HTTPS://data.example",
    "s3://KEY:SECRET@steel/line3/": "s3://steel/line3/",
    "s3://steel/line#3/a?.png": "s3://steel/line#3/a?.png",  # a key may hold these
    "s3://steel/raw.zip?X-Amz-Signature=SECRET": "s3://steel/raw.zip",
    "postgresql+psycopg2://mlflow:SECRET@db:5432/mlflow?password=SECRET": "postgresql+psycopg2://db:5432/mlflow",
    "postgresql://mlflow:12/34SECRET?x@db/mlflow": "postgresql://db/mlflow",
    "sqlite:////home/me@work/mlflow.db": "sqlite:////home/me@work/mlflow.db",
    "models:/steel@champion": "models:/steel@champion",
    "runs:/0123abc/review.html": "runs:/0123abc/review.html",
    "file:///srv/steel": "file:///srv/steel",
    "data/steel-strip": "data/steel-strip",
    "/srv/line 3/a@b/x?.png": "/srv/line 3/a@b/x?.png",
    "registry.example:5000/dbrnet:1@sha256:0123abc": "registry.example:5000/dbrnet:1@sha256:0123abc",
    "https://kubeflow.example/pipeline/#/runs/details/1": "https://kubeflow.example/pipeline/#/runs/details/1",
    "https://ann:SECRET@kubeflow.example/#/runs?token=SECRET": "https://kubeflow.example/#/runs",
    # as they are not written but by mistake
    "http://ann:SECRET/1@data.example/raw.zip": "http://data.example/raw.zip",
    "http://ann:my SECRET@data.example/raw.zip": "http://data.example/raw.zip",
    "http://data.example:SECRET/raw.zip": "http://data.example/raw.zip",
    "http:/ann:SECRET@data.example/raw.zip?x=SECRET": "http:/data.example/raw.zip",  # by pathlib
    "ann:SECRET@mlflow.example:5000": "mlflow.example:5000",
    # in the words of libraries
    "a (http://ann:SECRET@h/x), 'http://h/?a=SECRET': b": "a (http://h/x), 'http://h/': b",
    "http://h/a.zip?X=SECRET: the server answers 404": "http://h/a.zip: the server answers 404",
    "http://h:8080: refused; mail bob@example.com": "http://h:8080: refused; mail bob@example.com",
    '{"uri": "http://ann:SECRET@h/x?y=SECRET", "n": 1}': '{"uri": "http://h/x", "n": 1}',
    r'"{\"source\":\"http://h/x?y=SECRET\",\"n\":1}"': r'"{\"source\":\"http://h/x\",\"n\":1}"',
    "HTTPPool(host='h'): Max retries exceeded with url: /x?sig=SECRET (Caused by E('e'))": (
        "HTTPPool(host='h'): Max retries exceeded with url: /x (Caused by E('e'))"
    ),
    "Failed to parse: http://ann:SECRET@h:x/": "Failed to parse: http://h/",
}


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_shown(text: str) -> None:
    assert redact(text) == SHOWN[text]
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://hooks.example/services/T0/B0/SECRET", "https://hooks.example/..."),
        ("https://ann:SECRET@hooks.example:8443/SECRET?x=SECRET#/SECRET", "https://hooks.example:8443/..."),
        ("https://hooks.example", "https://hooks.example"),
        ("http://hooks.example/SECRET: it answers 403", "http://hooks.example/...: it answers 403"),
    ],
)
def test_a_webhooks_path_is_its_password(address: str, shown: str) -> None:
    assert redact(address, keep_path=False) == shown


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://ann:SECRET@data.example/raw.zip", True),
        ("https://SECRET@data.example/raw.zip", True),
        ("http://ann:SECRET/1@data.example/raw.zip", True),
        ("s3://KEY:SECRET@steel/line3/", True),
        ("https://data.example/raw@2.zip?X-Amz-Signature=SECRET", False),
        ("s3://steel/line@3/", False),
        ("data/a@b", False),
    ],
)
def test_passwords_are_told_from_other_at_signs(address: str, *, expected: bool) -> None:
    assert holds_password(address) == expected


def test_output_is_redacted_line_by_line() -> None:
    shown = io.StringIO()
    output = RedactedOutput(shown)
    output.write("    ")
    output.write("at http://ann:SEC")
    assert shown.getvalue() == ""
    output.write("RET@h/x\nthen\nand ?token=SEC")
    assert shown.getvalue() == "    at http://h/x\nthen\n"
    output.write("RET")
    output.close()
    assert shown.getvalue() == "    at http://h/x\nthen\nand "


def test_a_log_with_its_traceback_is_redacted() -> None:
    try:
        raise ValueError("http://ann:SECRET@h/x?y=SECRET")
    except ValueError as error:
        record = logging.LogRecord(
            "lib", 30, __file__, 1, "%s failed", ("http://h/?z=SECRET",), (ValueError, error, error.__traceback__)
        )
    text = RedactingFormatter(logging.Formatter("%(message)s")).format(record)
    assert text.startswith("http://h/ failed\nTraceback")
    assert text.endswith("ValueError: http://h/x")


@pytest.mark.parametrize("kind", [UserError, JobError])
def test_a_message_is_one_printable_line(kind: type[Exception]) -> None:
    message = str(kind("a\nb\x1b[31m 'ü 划' \udcff: wrong"))
    assert message == "a\\nb\\x1b[31m 'ü 划' \\udcff: wrong"
