"""MLflow's own scoring server on the version that promotion registers."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.dataset import Image
from dbrnet.inference.runtimes import open_model
from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.registry.promotion import record
from dbrnet.registry.store import open_store
from dbrnet.registry.tracking import start_or_resume_run
from dbrnet.registry.versions import register
from tests.conftest import Exported
from tests.registry.acting import decided
from tests.serving.conftest import png, running, serve, wait_until


@pytest.mark.slow
def test_mlflow_serves_the_champion(
    exported: Exported, make_image: Callable[..., Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(tmp_path)
    with start_or_resume_run(store, "strip", run_id=None, name="train", tags={}) as run:
        version = register(store, run, "dbrnet", exported[0], files={}, tags={}, example=make_image(48, 64)[None])
        record(
            store,
            "dbrnet",
            version,
            decided("promoted"),
            compared_with=None,
            decision_id="first",
            run_id=run.run_id,
            figures=KeyFigures(),
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/dbrnet@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"MLFLOW_TRACKING_URI": store.uri},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    try:
        wait_until(answers)
        images = np.stack([make_image(48, 64, seed) for seed in range(2)])
        body = json.dumps({"inputs": {"image": images.tolist()}}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as reply:
            said = json.load(reply)["predictions"]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    with running(*serve("models:/dbrnet@champion"), folder=tmp_path) as service:  # and so do we
        assert service.ask("/model").json["name"] == "models:/dbrnet@champion"
        assert service.predict(png(images[0])).json["defects"]
    masks, confidences = open_model(exported[0], threads=1).predict(images)
    assert len(np.unique(masks)) > 1
    assert (np.asarray(said["mask"]) == masks).mean() > 0.999  # its threads may sum in another order
    np.testing.assert_allclose(said["confidence"], confidences, atol=1e-3)
