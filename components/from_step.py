"""A step's component, made from the registry.

Kubeflow takes a component as the source text of one function and reads its interface off the signature. So the
function is written here: the inputs and the call of the step by the registry, then what the component adds.
"""

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from dbrnet.steps import BY_NAME, STEPS, Step

# Named in the committed YAML; `python -m pipelines` puts yours in its place, by digest.
IMAGE = "registry.example/dbrnet@sha256:" + 64 * "0"
KINDS = {"dataset": "Dataset", "trained": "Model", "exported": "Model", "champion": "Model"}  # the others: Artifact

# All run in the same image, and nothing is installed at run time.
component = partial(dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)


def step_component(function: Callable[..., Any]) -> BaseComponent:
    """The component of the step that `function` is named for.

    `function` takes what the component has beyond the step's section and inputs: its outputs, and parameters. Its body
    runs after the step, and fills what Kubeflow shows: metrics, pages, metadata. Of this module's names it may use
    `Path`, `copyfile` and `records`; whatever else it needs it imports itself.
    """
    step = BY_NAME[function.__name__.replace("_", "-")]
    source = _source(step, function)
    name = f"<component {step.name}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # where inspect looks for it
    scope: dict[str, Any] = {"dsl": dsl}
    exec(compile(source, name, "exec"), scope)  # noqa: S102  our own source, rearranged
    made: BaseComponent = component(scope[step.identifier])
    return made


def _source(step: Step, function: Callable[..., Any]) -> str:
    """The component's whole source."""
    tree = next(node for node in ast.parse(inspect.getsource(function)).body if isinstance(node, ast.FunctionDef))
    writers = {one.out: one.name for one in STEPS}
    inputs = [f"{name}: {_input(name)}" for name in step.inputs]
    optional = [f"{name}: {_input(name)} = None" for name in step.optional_inputs]
    signature = ", ".join(["params: str", *inputs, ast.unparse(tree.args), *optional])

    own = [argument.arg for argument in tree.args.args]
    given = [f"{name}={name}.path" for name in step.inputs]
    given += [f"{name}={name} and {name}.path" for name in step.optional_inputs]
    given += [f"{option.name}={option.name}" for option in step.options if option.name in own]
    call = f"call({step.name!r}, params, {', '.join([*given, f'out={step.out}.path'])})"

    summary, _, described = (ast.get_docstring(tree) or "").partition("Args:\n")
    texts = {"params": f"the section `{step.section}` of params.yaml as JSON."}
    texts |= {name: f"what `{writers[name]}` wrote." for name in (*step.inputs, *step.optional_inputs)}
    arguments = "".join(f"    {name}: {text}\n" for name, text in texts.items())
    docstring = f'"""{summary}Args:\n{arguments}{described}\n"""'
    body = [
        docstring,
        "from pathlib import Path",
        "from shutil import copyfile",
        "from dbrnet import records",
        "from dbrnet.cli import call",
        call,
        *map(ast.unparse, tree.body[1:]),
    ]
    returns = ast.unparse(tree.returns) if tree.returns else "None"
    return f"def {step.identifier}({signature}) -> {returns}:\n" + textwrap.indent("\n".join(body), "    ") + "\n"


def _input(name: str) -> str:
    return f"dsl.Input[dsl.{KINDS.get(name, 'Artifact')}]"
