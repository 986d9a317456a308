"""`python -m pipelines`: compile the pipelines, run them here, submit and schedule them on a cluster."""

import argparse
import sys
from collections.abc import Sequence

from dbrnet.errors import JobError, UserError
from pipelines.commands import add_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    try:
        options.pop("function")(**options)
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except JobError as error:
        return _fail(f"failed: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    add_commands(commands)
    return parser


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
