"""The commands of `dbrnet` and their arguments, as the command line itself knows them."""

import inspect
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from dbrnet.cli import app
from dbrnet.commands.registry import registry

LINES = [name for name in app if not name.startswith("-") and name != "registry"]
LINES += [f"registry {name}" for name in registry if not name.startswith("-")]


def arguments_of(line: str) -> Mapping[str, inspect.Parameter]:
    """The arguments of a command such as "registry show", by name."""
    command = app
    for word in line.split():
        command = command[word]
    assert command.default_command
    return inspect.signature(command.default_command).parameters


def type_of(argument: inspect.Parameter) -> Any:
    """The argument's type, without what is said of it and whether it is optional."""
    kind = argument.annotation
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return get_args(kind)[0] if isinstance(kind, UnionType) else kind


def is_positional(argument: inspect.Parameter) -> bool:
    """Whether it is given by its place."""
    return argument.kind is inspect.Parameter.POSITIONAL_ONLY
