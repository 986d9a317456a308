"""The commands beside the pipeline's steps.

A command's help is its docstring: what it does, two examples, its arguments. The modules import torch, MLflow and
OpenCV inside the functions, since help must not wait for them.
"""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter, Token, convert

from dbrnet import __version__

EMPTY_PATH = "the path is empty, as an unset variable leaves it; give a path"
Json = Annotated[bool, Parameter(help="print the answer as JSON")]
START, PIPELINE, USE, OPERATE = (
    Group(name, sort_key=key) for key, name in enumerate(("Start", "Pipeline", "Use", "Operate"), start=1)
)


def new_app(name: str, help: str, epilogue: str = "") -> App:
    """A command line whose help and errors look like all of ours."""

    def show_default(value: Any) -> Any:
        return None if value is None or value is False else str(value)  # it says nothing of a flag

    app = App(
        name=name,
        help=help,
        help_epilogue=epilogue,
        help_format="plaintext",
        version=f"dbrnet {__version__}",
        default_parameter=Parameter(negative=(), converter=_convert, show_default=show_default),
    )
    options = Group("Options", sort_key=9)
    for flag in ("--help", "--version"):
        app[flag].group = options
    return app


def reflow(app: App) -> None:
    """Let the help of `app`'s commands break its lines where the terminal does, and not where the source does.

    Paragraphs are joined, indented lines stay; Markdown would do it too, but takes half as long as all of the help.
    """
    for command in (app[name] for name in app):
        paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
        joined = (text if text.startswith(" ") else " ".join(text.split()) for text in paragraphs)
        command.help = "\n\n".join(text for text in joined if not text.startswith("Args:"))
        command.help_epilogue = ""  # the app's own is not for each of its commands


def print_json(value: Any) -> None:
    """Print a command's answer to a script."""
    print(json.dumps(value, indent=2, default=str))  # noqa: T201


def _convert(kind: Any, tokens: Sequence[Token]) -> Any:
    if kind is Path and not tokens[0].value:  # Path("") would be the working folder
        raise ValueError(EMPTY_PATH)
    return convert(kind, tokens)


app = new_app(
    "dbrnet",
    "Train, measure and promote DBRNet, a real-time network for defects on metal surfaces.",
    "The pipeline's commands, in order, are the stages of dvc.yaml and the sections of params.yaml: `dvc repro` runs "
    "those whose input has changed.\n\n"
    "Exit status: 0 done, 1 the job failed, 2 wrong input.\n\n"
    "MLFLOW_TRACKING_URI names the tracking store; without it runs go to mlflow.db in this folder.",
)
