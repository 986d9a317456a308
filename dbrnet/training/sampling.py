"""Which images a training sees, and which of their defects: balanced by class and by group.

Most pixels of a factory are sound, and most of its defects are of the commonest class. A share of the crops is
therefore laid over a defect: the classes take turns, then the groups of the class, so that each is seen equally often.
The other crops show any image at any place, as in production.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np

from dbrnet.data.dataset import Sample


@dataclass(frozen=True)
class Draw:
    """What one crop shows. Images are indices into the training split."""

    image: int
    label: int | None = None  # class of the defect that the crop is laid over; None: any place of the image
    donor: int | None = None  # the image that the defect is pasted from; None: it is the image's own


class Sampler:
    """An endless series of draws, each a function of its place in the series and the seed alone.

    `focus` is the share of draws laid over a defect, and `paste` the share of those whose defect is pasted onto
    another image: a defect-free one where there are any. Groups are those of the samples.
    """

    def __init__(self, samples: Sequence[Sample], *, seed: int, focus: float, paste: float) -> None:
        self._count = len(samples)
        self._seed, self._focus, self._paste = seed, focus, paste
        self._defect_free = [index for index, sample in enumerate(samples) if not sample.classes] or range(len(samples))
        groups: dict[int, dict[str, list[int]]] = {}  # class -> group -> images
        for index, sample in enumerate(samples):
            for label in sample.classes:
                groups.setdefault(label, {}).setdefault(sample.group, []).append(index)
        self._groups = {label: list(groups[label].values()) for label in sorted(groups)}

    def draw(self, place: int) -> Draw:
        """The draw at `place`, from 0."""
        focused = floor(place * self._focus)  # draws over a defect before this one
        if not self._groups or floor((place + 1) * self._focus) == focused:
            return Draw(self._turn(self._count, place - focused if self._groups else place))
        label = list(self._groups)[self._turn(len(self._groups), focused)]
        groups = self._groups[label]
        group = groups[self._turn(len(groups), focused // len(self._groups), label)]
        random = np.random.default_rng([self._seed, place])
        image = int(random.choice(group))
        if random.random() >= self._paste:
            return Draw(image, label)
        return Draw(int(random.choice(self._defect_free)), label, donor=image)

    def _turn(self, count: int, place: int, stream: int = 0) -> int:
        """The item of `count` whose turn it is: all come before one comes again, each time in another order."""
        order = np.random.default_rng([self._seed, stream, count, place // count]).permutation(count)
        return int(order[place % count])
