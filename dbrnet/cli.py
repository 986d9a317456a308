"""The `dbrnet` command: a subcommand for each step, made from the step function's own signature."""

import argparse
import errno
import importlib
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from dbrnet import __version__
from dbrnet.addresses import RedactingFormatter, redact
from dbrnet.errors import JobError, UserError
from dbrnet.files import require_apart, require_output
from dbrnet.process_group import first_to_fail, process_group

STEPS = {
    "ingest": "read a dataset from a folder, an archive, a URL or S3 into one canonical form",
    "split": "divide the samples into train, val and test, so that near-copies stay together",
    "train": "train DBRNet; killed and started again, it goes on where it was",
    "export": "write the trained network as one ONNX file, and in int8 as another",
    "fetch-champion": "fetch the champion that a candidate is compared with, and what it was trained on",
    "evaluate": "score the exported model on the test split and write the HTML report",
    "benchmark": "measure the model's speed on this machine, in every runtime that it has",
    "promote": "decide by the thresholds, register the model, and move the champion if it passes",
    "drift": "answer whether new data warrant retraining the champion: yes or no, with reasons",
}
TOOLS = {
    "audit": "find the images that show the same thing, and say what a split of them leaks",
    "serve": "answer images over HTTP, with a page to try it on",
    "predict": "write masks, overlays, RLE or COCO files for images and videos of your own",
    "registry": "who is champion, since when and why; approve, reject, roll back",
    "revision": "tell whether the data's source has changed, without reading it",
    "notify": "tell a webhook how a scheduled run ended, and who is champion",
    "generate": "make the built-in dataset: steel-strip images in Severstal's layout",
    "worker": "one process of a training on several machines; TrainJobs run it",
    "configure": "set params.yaml to the recipe of a dataset",
}
ACTIONS = {  # of tools that have more than one: their functions
    "registry": {
        "history": "every decision, newest last, or who was champion at a time",
        "show": "all that is known of one version",
        "diff": "two versions side by side",
        "approve": "make a version champion: the one that waits for a review, or another with a reason",
        "reject": "revoke a version, so that the gate cannot promote it",
        "rollback": "make the champion before, or another previous one, champion again",
    }
}
ARGUMENTS = {
    "params": "the parameters' file (default: params.yaml)",
    "checkpoints": "where to keep checkpoints, each training its own (default: a hidden folder beside --out)",
    "out": "the folder to write: new, empty, or one that this command wrote before, whose files it replaces",
    "dataset": "the folder that `dbrnet ingest` wrote",
    "split": "the folder that `dbrnet split` wrote",
    "job_spec": "what the training is given, at s3://BUCKET/PREFIX/jobs/NAME/",
    "trained": "the folder that `dbrnet train` wrote",
    "exported": "the folder that `dbrnet export` wrote",
    "champion": "the folder that `dbrnet fetch-champion` wrote",
    "evaluated": "the folder that `dbrnet evaluate` wrote",
    "benchmarked": "the folder that `dbrnet benchmark` wrote",
    "current": "the dataset as it is now, or a plain folder of unlabelled images",
    "sources": "images, folders of them, quoted globs, videos, s3://BUCKET/PREFIX/",
    "batch": "how many images of one size are predicted together, for speed",
    "formats": "what to write, of masks, overlays, rle, coco, with commas between",
    "bit_depth": "how many bits of its 16 the camera uses, as in ingest.bit_depth",
    "model": "an exported .onnx, a model.pt, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow",
    "against": "another model to compare with: a model.pt, an exported .onnx, or models:/NAME@ALIAS",
    "version": "the version's number",
    "other": "the other version's number",
    "model_name": "the model's name in MLflow's registry (default: fetch_champion.model_name of params.yaml)",
    "at": "a time, such as 2026-11-01 or 2026-11-01T06:00 (UTC unless it says otherwise)",
    "html": "a file to write the history's page to",
    "to": "the version to go back to (default: the champion before)",
    "run": "what ran, such as the name of a pipeline",
    "state": "how it ended, such as SUCCEEDED or FAILED",
    "error": "what went wrong, if anything did",
    "why": "the reason, for those who come after",
    "count": "how many images",
    "seed": "the random seed: the same seed makes the same images",
    "name": "the dataset's name; its recipe is recipes/NAME.yaml",
    "runtime": "the runtime to run it in, such as openvino-int8 (default: the usual one of its kind)",
    "threads": "how many of the CPU's threads the model may use; 0 for all",
    "host": "the address to listen on; 0.0.0.0 for all of this machine's",
    "port": "the port to listen on; 0 for any that is free",
    "queue": "how many images may wait or be worked on; more are answered 503",
    "max_mb": "the largest image file, in MiB",
    "source": "its folder, archive, http(s) or s3:// address (default: the recipe's)",
}
EPILOG = """\
The steps, in order, are the stages of dvc.yaml and the sections of params.yaml:
`dvc repro` runs those whose input has changed. (drift alone is no stage: it
asks whether to run the others.) Exit status: 0 done, 1 the job failed, 2 wrong
input. MLFLOW_TRACKING_URI names the tracking store; without it runs go to
mlflow.db in this folder.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    status, options = _tell(lambda: vars(_parser(words).parse_args(words)), None)
    if options is None:
        return status
    command = options.pop("command")
    function = _function(command, options.pop("action", None))

    def run() -> None:
        _require_output(command, options)
        function(**_with_section(function, options))

    status, _ = _tell(run, options.get("out"))
    return status


def call(command: str, section: str, **arguments: Any) -> Any:
    """Run a command from a program, as a Kubeflow component does; what its function returns.

    `section` is its section of params.yaml as text; paths may be text too. What goes wrong ends the process
    as it ends the command: with one line, and exit status 1 or 2.
    """

    def run() -> Any:
        from dbrnet.config import parse_section

        function = _function(command)
        paths = {
            name: _path(name, arguments[name])
            for name, asked in inspect.signature(function).parameters.items()
            if "Path" in str(asked.annotation) and isinstance(arguments.get(name), str)
        }
        _require_output(command, paths)
        return function(parse_section(_section_of(function), section), **arguments | paths)

    status, result = _tell(run, arguments.get("out"))
    if status:
        sys.exit(status)
    return result


def _tell(run: Callable[[], Any], out: object) -> tuple[int, Any]:
    """Call `run`; the exit status, and what it returned. What a user can mend is told in one line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(logging.Formatter("%(message)s")))
    logging.basicConfig(handlers=[handler])
    # Ours alone: the exporter tells of every node. And of several processes the first speaks.
    logging.getLogger("dbrnet").setLevel(logging.INFO if process_group().first else logging.CRITICAL)
    try:
        return 0, run()
    except UserError as error:
        return _fail(f"error: {error}", 2), None
    except JobError as error:
        return _fail(f"failed: {error}", 1), None
    except KeyboardInterrupt:
        return _fail("interrupted", 130), None
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0, None
    except OSError as error:
        if error.errno in _ENVIRONMENT:
            return _fail(redact(f"error: {error.strerror}: {error.filename or out or ''}"), 2), None
        return _fail(unforeseen(), 1), None
    except Exception:
        return _fail(unforeseen(), 1), None


_ENVIRONMENT = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EFBIG}


def unforeseen() -> str:
    """The traceback of what is being handled, a bug of ours, without what a library's words give away."""
    return redact(traceback.format_exc()).rstrip()


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which quotes what it does not understand, be it an address with a password."""

    def error(self, message: str) -> NoReturn:
        """Say it in one line, redacted, and exit with status 2."""
        super().error(redact(message))


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Build the parser. Only the command asked for is imported: torch and mlflow take seconds to load."""
    parser = ArgumentParser(
        prog="dbrnet",
        description="Train, measure and promote DBRNet, a real-time network for defects on metal surfaces.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dbrnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, summary in (STEPS | TOOLS).items():
        command = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name not in words[:1]:
            continue
        if name not in ACTIONS:
            _add_arguments(command, _function(name))
            continue
        actions = command.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
        for action, what in ACTIONS[name].items():
            _add_arguments(actions.add_parser(action, help=what), _function(name, action))
    return parser


def _function(command: str, action: str | None = None) -> Callable[..., Any]:
    room = "steps" if command in STEPS else "commands"
    name = command.replace("-", "_")
    module = importlib.import_module(f"dbrnet.{room}.{name}")
    function: Callable[..., Any] = getattr(module, action or name)
    return function


def _add_arguments(command: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Give `command` an argument for each of the function's: those without a default are positional."""
    command.description = inspect.cleandoc(function.__doc__ or "")
    for name, argument in inspect.signature(function).parameters.items():
        text = ARGUMENTS[name]
        required = argument.default is inspect.Parameter.empty
        kind = (
            int
            if argument.annotation in (int, int | None)
            else partial(_path, name)
            if "Path" in str(argument.annotation)
            else str
        )
        if name == "params":
            command.add_argument(
                "--params", type=partial(_path, name), default=Path("params.yaml"), metavar="FILE", help=text
            )
        elif argument.kind is inspect.Parameter.KEYWORD_ONLY or not required:
            shown = text if required or argument.default is None else f"{text} (default: {argument.default})"
            command.add_argument(
                f"--{name.replace('_', '-')}",
                type=kind,
                required=required,
                default=argument.default if not required else None,
                metavar=name.upper(),
                help=shown,
            )
        elif "list" in str(argument.annotation):
            command.add_argument(name, type=kind, nargs="+", metavar=name.upper(), help=text)
        else:
            command.add_argument(name, type=kind, metavar=name.upper(), help=text)


def _path(name: str, word: str) -> Path:
    if not word:
        raise UserError(f"{name}: the path is empty, as an unset variable leaves it; give a path")
    return Path(word)


def _require_output(command: str, arguments: Mapping[str, object]) -> None:
    """Refuse an --out in which something else than the command's own output would be lost."""
    out = arguments.get("out")
    if not isinstance(out, Path):
        return
    require_output(out, command)
    for name, value in arguments.items():
        if isinstance(value, Path) and name != "out":
            require_apart(out, value, name)


def _with_section(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Replace the parameters' file by its section, where that is what the function's signature asks for."""
    asked = inspect.signature(function).parameters.get("params")
    if asked and asked.annotation is not Path:  # `configure` asks for the file itself
        from dbrnet.config import load_params

        options["params"] = getattr(load_params(options["params"]), _section_of(function))
    return options


def _section_of(function: Callable[..., Any]) -> str:
    from dbrnet.config import Params

    asked = inspect.signature(function).parameters["params"].annotation
    return next(name for name, section in Params.model_fields.items() if section.annotation is asked)


def _fail(message: str, status: int) -> int:
    if first_to_fail():
        print(message, file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
