"""`python -m pipelines`: compile the pipelines, run them here, submit and schedule them on a cluster."""

import sys
from collections.abc import Sequence

from dbrnet.cli import run
from dbrnet.commands import reflow
from pipelines.commands import app

reflow(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
