"""What concerns quantising alone; that the file runs is tests/deployment/test_runtimes.py's."""

import os
import subprocess
import sys

SCRIPT = """
import dbrnet
from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__)
"""


def test_nncf_does_not_phone_home() -> None:
    """Outside pytest, which it knows and is silent in anyway."""
    environment = {key: value for key, value in os.environ.items() if key not in {"NNCF_CI", "NNCF_DEV"}}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
                          env=environment)  # fmt: skip
    assert done.stdout.split()[-1] != "NNCFTelemetry"  # but a stub that does nothing
