"""Bounds that several packages share, as types that pydantic checks.

Every number that a user sets has a lower and an upper bound. Both also refuse infinity and NaN.
"""

from typing import Annotated

from pydantic import Field

# Pixels. Semantic features lie at 1/32 of the image, so a smaller one would leave nothing to pool.
MINIMUM_SIDE = 32

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Side = Annotated[int, Field(ge=MINIMUM_SIDE, le=8192)]
Size = tuple[Side, Side]  # height, width
