"""`python -m pipelines`: compile the pipelines, run them here, submit and schedule them on a cluster."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dbrnet.cli import ArgumentParser, unforeseen
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
    except Exception:
        return _fail(unforeseen(), 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    command = commands.add_parser("compile", help="write components/compiled and pipelines/compiled anew")
    command.set_defaults(function=_compile)
    command = commands.add_parser("run", help="run a pipeline on this machine, by Kubeflow's local runner")
    command.add_argument("--local", action="store_true", required=True, help="on this machine")
    command.add_argument("--retraining", action="store_true", help="ask first whether the data warrants it")
    command.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        help="the parameters' file (default: params.yaml)",
    )
    command.add_argument(
        "--root",
        type=Path,
        default=Path("artifacts/kubeflow"),
        metavar="FOLDER",
        help="where the artifacts come to lie (default: artifacts/kubeflow)",
    )
    command.set_defaults(function=_run)
    add_commands(commands)
    return parser


def _compile() -> None:
    from pipelines.compiling import compile_all

    for path in compile_all(Path(__file__).parents[1]):
        print(path.name)


def _run(*, local: bool, retraining: bool, params: Path, root: Path) -> None:
    from dbrnet.config import load_params
    from pipelines.local import run_local

    run_local("retraining" if retraining else "training", load_params(params), root)


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
