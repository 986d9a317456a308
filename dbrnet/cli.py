"""The `dbrnet` command: the steps, made from their registry, and the commands beside them."""

import ast
import errno
import inspect
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CoercionError, CycloptsError, Parameter, UnusedCliTokensError

import dbrnet.commands.doctor
import dbrnet.commands.registry
import dbrnet.commands.start
import dbrnet.commands.use
import dbrnet.commands.worker
from dbrnet.addresses import RedactingFormatter, redact, redact_log
from dbrnet.commands import EMPTY_PATH, OPERATE, PIPELINE, app, reflow
from dbrnet.errors import JobError, UserError
from dbrnet.files import require_apart, require_output
from dbrnet.process_group import first_to_fail, process_group
from dbrnet.progress import duration, say
from dbrnet.steps import BY_NAME, STAGES, STEPS, TASKS, Step

__all__ = ["app", "call", "main", "run"]

OUT = "the folder to write: new, empty, or one that this command wrote before, whose files it replaces"
PARAMS = Path("params.yaml")
_ENVIRONMENT = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EFBIG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(app, arguments)


def run(app: App, arguments: Sequence[str] | None = None) -> int:
    """Run the command of `app` that `arguments` (default: this process's) name; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "NO_COLOR" in os.environ:
        from rich.console import Console  # left to itself it still prints bold and dim

        app.console = Console(color_system=None)

    def parse_and_run() -> None:
        try:
            command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        except CycloptsError as error:
            raise UserError(_explain(error, app, words)) from None
        _guarded(words[0] if words else "", bound.arguments, lambda: command(*bound.args, **bound.kwargs))

    return _report(parse_and_run)


def call(name: str, section: str, **arguments: Any) -> Any:
    """Run a step from a program, as a Kubeflow component does; what its function returns.

    `section` is its section of params.yaml as text; paths may be text too. What goes wrong ends the process
    as it ends the command: with one line, and exit status 1 or 2.
    """
    step = BY_NAME[name]
    result = None

    def parse_and_run() -> None:
        from dbrnet.config import parse_section

        nonlocal result
        given = {key: value for key, value in arguments.items() if value is not None}
        for key in step.paths & given.keys():
            if given[key] == "":
                raise UserError(f"{key}: {EMPTY_PATH}")
            given[key] = Path(given[key])

        def act() -> Any:
            params = parse_section(step.section, section)  # what is wrong is told before seconds of imports
            return step.function()(params, **given)

        result = _guarded(name, given, act)

    redact_log()  # Kubeflow's
    if status := _report(parse_and_run):
        sys.exit(status)
    return result


def _guarded(command: str, arguments: Mapping[str, Any], function: Callable[[], Any]) -> Any:
    """Call `function` unless it would overwrite in --out what `command` did not write."""
    out = arguments.get("out")
    if isinstance(out, Path):
        require_output(out, command)
        for name, value in arguments.items():
            if isinstance(value, Path) and name != "out":
                require_apart(out, value, name)
    try:
        return function()
    except OSError as error:  # a full disk names no file
        error.filename = error.filename or (str(out) if out else None)
        raise


def _report(function: Callable[[], object]) -> int:
    """Call `function`; the exit status. What a user can mend is told in one line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(logging.Formatter("%(message)s")))
    logging.basicConfig(handlers=[handler])
    # Only our own loggers: PyTorch's exporter logs every node. Of several processes, rank 0 logs.
    for name in ("dbrnet", "pipelines"):
        logging.getLogger(name).setLevel(logging.INFO if process_group().first else logging.CRITICAL)
    try:
        function()
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except JobError as error:
        return _fail(f"failed: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            return _fail(unforeseen(), 1)
        return _fail(redact(f"error: {error.strerror}: {error.filename or ''}"), 2)
    except Exception:
        return _fail(unforeseen(), 1)
    return 0


def unforeseen() -> str:
    """The traceback of the exception being handled, which is a bug of ours, with credentials redacted."""
    return redact(traceback.format_exc()).rstrip()


def _fail(line: str, status: int) -> int:
    if first_to_fail():
        if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
            kind, colon, rest = line.partition(":")
            line = f"\x1b[31m{kind}{colon}\x1b[0m{rest}"
        print(line, file=sys.stderr)  # noqa: T201
    return status


def _explain(error: CycloptsError, app: App, words: Sequence[str]) -> str:
    """The parser's complaint in our form, with the help to read."""
    if isinstance(error, CoercionError) and isinstance(error.msg, str) and error.argument:  # by our converter
        return f"{error.argument.field_info.name}: {error.msg}"
    command = " ".join([app.name[0], *app.parse_commands(words)[0]])
    text = str(error).partition(" Available commands")[0].rstrip(".")
    if isinstance(error, UnusedCliTokensError):  # whose own text is a list as Python writes it
        text = f"unexpected argument: {' '.join(error.unused_tokens or ())}"
    return f"{text[:1].lower()}{text[1:]}; see: {command} --help"


def _add_step(step: Step) -> None:
    """Give the command line a command for `step`: its arguments are the registry's."""

    def command(*folders: Path, params: Path = PARAMS, **named: Any) -> None:
        from dbrnet.config import load_params

        given = dict(zip(step.inputs, folders, strict=True)) | named
        arguments = {name: value for name, value in given.items() if value is not None}
        section = getattr(load_params(params), step.section)
        with _announced(step, arguments):
            result = step.function()(section, **arguments)
        if isinstance(result, str):
            print(result)  # noqa: T201

    by_name, by_place = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY
    folder = {one.out: f"the folder that `dbrnet {one.name}` wrote" for one in STEPS} | {"out": OUT}
    outs = ["out"] if step.out else []
    arguments = [_argument(name, by_place, Path, folder[name]) for name in step.inputs]
    arguments += [_argument(name, by_name, Path, folder[name]) for name in outs]
    arguments += [_argument(one.name, by_name, one.type, one.help) for one in step.options if one.required]
    arguments += [_argument(name, by_name, Path | None, folder[name], None) for name in step.optional_inputs]
    arguments += [
        _argument(one.name, by_name, one.type | None, one.help, None) for one in step.options if not one.required
    ]
    arguments += [_argument("params", by_name, Path, "the parameters' file", PARAMS)]
    complete = not any(option.required for option in step.options)
    lines = [*([step.command_line()] if complete else []), *step.examples]
    examples = "For example:\n\n" + "\n".join(f"    {line}" for line in lines)
    # The docstring after its first line, read from the file: importing the step takes seconds.
    path = Path(__file__).parent.joinpath(*step.location.split(".")[1:]).with_suffix(".py")
    functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    details = (ast.get_docstring(functions[step.identifier]) or "").partition("\n\n")[2]
    command.__annotations__ = {}
    command.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    app.command(
        command,
        name=step.name,
        group=PIPELINE if step in STEPS else OPERATE,
        sort_key=list(BY_NAME).index(step.name),
        help=f"{step.help[0].upper()}{step.help[1:]}.\n\n{details}\n\n{examples}",
    )


def _argument(name: str, kind: Any, type_: Any, help: str, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[type_, Parameter(help=help)])


@contextmanager
def _announced(step: Step, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Say which step speaks where several do in turn: on a terminal, and where DVC runs them."""
    by_dvc = "DVC_STAGE" in os.environ
    if not (by_dvc or sys.stderr.isatty()) or step not in STAGES or not process_group().first:
        yield
        return
    place, begin = STAGES.index(step) + 1, time.monotonic()
    heading = f"[{place}/{len(STAGES)}] {step.name}"
    say(heading)
    yield
    say(f"{heading}: done in {duration(time.monotonic() - begin)}")
    if not by_dvc:
        folders = {name: str(arguments[name]) for name in step.inputs} | {step.out: str(arguments["out"])}
        say(f"next: {STAGES[place].command_line(folders) if place < len(STAGES) else 'dbrnet registry history'}")


for _step in (*STEPS, *TASKS):
    _add_step(_step)
reflow(app)
reflow(dbrnet.commands.registry.registry)

if __name__ == "__main__":
    sys.exit(main())
