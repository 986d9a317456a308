"""A model in a process of its own, for benchmarks that compare it with others.

On the CPU, PyTorch takes the memory of each map from the C library, whose allocator adapts to everything that the
process freed before. In one process with other runtimes the same network took 29 to 44 ms at random; alone it takes
what it takes for users. Images and outputs lie in memory that both processes share. Signalling and the two copies
cost less than a tenth of a millisecond at 512x512.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from dbrnet.inference.runtimes.base import Answer, Images, Model
from dbrnet.training.distributed import keep_memory

ATTRIBUTES = ("runtime", "precision", "device", "threads", "classes", "metadata")


class SubprocessModel:
    """The model `build(*arguments)` in a process of its own, for one image of `size` (height, width) at a time."""

    def __init__(self, size: tuple[int, int], build: Callable[..., Model], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        height, width = size
        shared = [context.RawArray(kind, count * height * width) for kind, count in (("B", 3), ("B", 1), ("f", 1))]
        self._image, *self._outputs = _arrays(shared, size)
        self._process = context.Process(target=_serve, args=(theirs, shared, size, build, arguments), daemon=True)
        self._process.start()
        theirs.close()
        for name, value in self._connection.recv().items():
            setattr(self, name, value)

    def predict(self, images: Images) -> Answer:
        """Class ids and confidence, as `Model` gives them, in memory that the next call overwrites."""
        self._image[:] = images
        self._connection.send(None)
        self._connection.recv()
        mask, confidence = self._outputs
        return mask, confidence


def keeping_memory(build: Callable[..., Model], *arguments: object) -> Model:
    """The model `build(*arguments)`, in a process that keeps the memory it frees."""
    keep_memory()
    return build(*arguments)


def _serve(
    connection: Connection,
    shared: list[Any],
    size: tuple[int, int],
    build: Callable[..., Model],
    arguments: tuple[object, ...],
) -> None:
    model = build(*arguments)
    connection.send({name: getattr(model, name) for name in ATTRIBUTES})
    image, *outputs = _arrays(shared, size)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        for output, values in zip(outputs, model.predict(image), strict=True):
            output[:] = values
        connection.send(None)


def _arrays(shared: list[Any], size: tuple[int, int]) -> list[Any]:
    """The image, the mask and the confidence, in `shared`."""
    shapes = (1, *size, 3), (1, *size), (1, *size)
    return [np.frombuffer(memory, memory._type_).reshape(shape) for memory, shape in zip(shared, shapes, strict=True)]
