"""The eight ways to lay an image down: four rotations, and the four of its mirror image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Symmetry:
    """Mirror left to right if `mirrored`, then turn counter-clockwise by `quarters` times 90 degrees."""

    mirrored: bool
    quarters: int

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array [H, W, ...] laid down this way; a view."""
        return np.rot90(array[:, ::-1] if self.mirrored else array, self.quarters)

    @property
    def inverse(self) -> "Symmetry":
        """The way back: a mirrored one undoes itself."""
        return self if self.mirrored else SYMMETRIES[-self.quarters % 4]

    @property
    def swaps_axes(self) -> bool:
        """Whether height becomes width."""
        return self.quarters % 2 == 1

    def __str__(self) -> str:
        turned = f"turned {90 * self.quarters}°" if self.quarters else ""
        return ", ".join(filter(None, ("mirrored" if self.mirrored else "", turned))) or "as it is"


SYMMETRIES = tuple(Symmetry(mirrored, quarters) for mirrored in (False, True) for quarters in range(4))
