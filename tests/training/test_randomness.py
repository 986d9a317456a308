import io
import random

import numpy as np
import torch

from dbrnet.training.randomness import random_state, restore_random_state, seed_all


def draw() -> tuple[float, ...]:
    return (random.random(), random.gauss(), float(np.random.rand()), float(np.random.randn()), torch.rand(1).item())


def test_a_seed_fixes_all_generators() -> None:
    seed_all(4)
    first = draw()
    seed_all(4)
    assert draw() == first
    seed_all(5)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_the_state_survives_a_file_and_goes_on_in_the_same_sequence() -> None:
    seed_all(4)
    draw()
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draw(), draw()
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert (draw(), draw()) == expected
