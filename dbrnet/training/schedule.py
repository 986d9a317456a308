"""The learning rate, one value an iteration."""

from typing import Literal

WARMUP_START = 0.1  # the warm-up starts at this share of the base rate, as in the released code
POLY_POWER = 0.9

Schedule = Literal["linear", "poly"]


def learning_rate(step: int, total: int, base: float, warmup: int, schedule: Schedule) -> float:
    """The rate of iteration `step` of `total`, counted from 0; never negative, and `base` at most.

    For `warmup` iterations it rises linearly from a tenth of `base`; then it falls, linearly (paper section
    3.2) or with the power 0.9 ("poly", the released code), so as to reach 0 right after the last iteration.
    """
    if step < warmup:
        return base * (WARMUP_START + (1 - WARMUP_START) * step / warmup)
    left = max(0.0, (total - step) / max(1, total - warmup))
    return base * left ** (1.0 if schedule == "linear" else POLY_POWER)
