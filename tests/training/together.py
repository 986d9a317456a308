"""What each of two processes runs in test_distributed.py, started by torchrun."""

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dbrnet.data.dataset import Dataset
from dbrnet.files import read_json
from dbrnet.training.distributed import DistributedContext, join_processes
from dbrnet.training.loop import Run
from dbrnet.training.loss import make_loss
from dbrnet.training.recipe import LossName, Recipe
from dbrnet.training.task import dataset_task
from tests.training.conftest import EACH_ITERATION, content

Case = tuple[LossName, float, float, tuple[int, ...]]

# Of a batch's loss: its name, OHEM's threshold, how confident the network is, images without a valid pixel.
OHEM_CASES: dict[str, Case] = {
    "all hard": ("ohem", 1.0, 0.0, ()),
    "some hard": ("ohem", 0.7, 2.0, ()),
    "none hard, the sixteenth counts": ("ohem", 0.0, 14.0, ()),
    "all alike, ties among the sixteenth": ("ohem", 0.0, 0.0, ()),
    "one process sees nothing valid": ("ohem", 0.7, 2.0, (1, 3)),
    "one process sees nothing valid, the sixteenth counts": ("ohem", 0.0, 2.0, (1, 3)),
    "nothing valid": ("ohem", 0.7, 2.0, (0, 1, 2, 3, 4)),
}
CASES: dict[str, Case] = OHEM_CASES | {
    f"{name}, {blank} blank": (name, 1.0, 2.0, blank)
    for name in cast("tuple[LossName, ...]", ("ce", "ce+dice", "hierarchical"))
    for blank in ((), (1, 3), (0, 1, 2, 3, 4))
}


def batch(case: str) -> tuple[Tensor, Tensor]:
    """Five images' logits and masks, of which the first process gets three and the other two."""
    _, _, margin, blank = CASES[case]
    rng = np.random.default_rng(1)
    target = rng.integers(0, 4, (5, 9, 11))
    confident = margin * (np.arange(4)[:, None, None] == target[:, None])
    logits = confident + (0 if "alike" in case else rng.standard_normal((5, 4, 9, 11)) * (1 + margin / 4))
    logits[0] += margin / 7 * rng.standard_normal((4, 9, 11))  # the hard ones are not spread evenly
    target[rng.random(target.shape) < 0.2] = 255
    target[list(blank)] = 255
    return torch.from_numpy(logits * np.ones((5, 4, 9, 11))), torch.from_numpy(target)


def loss_and_gradient(case: str, distributed: DistributedContext) -> tuple[Tensor, Tensor]:
    """Of this process's share, the gradient as the mean over the processes leaves it."""
    logits, target = (each[distributed.rank :: distributed.size] for each in batch(case))
    logits = logits.clone().requires_grad_()
    loss = make_loss(*CASES[case][:2], distributed, 5)(logits, target)
    loss.backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad / distributed.size


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    job = read_json(folder / "job.json")
    with join_processes() as distributed:
        rank = distributed.rank
        results: dict[str, Any] = {
            "losses": {case: loss_and_gradient(case, distributed) for case in CASES},
            "share": distributed.share(range(5)),
            "sum": distributed.sum(torch.tensor([1, 10**rank])),
            "gathered": distributed.gather(torch.tensor([rank, 7])),
            "from first": distributed.from_first(lambda: {"rank": rank, "values": (0.1, torch.arange(3))}),
        }
        dataset, recipe = Dataset.load(Path(job["root"])), Recipe.model_validate(job["recipe"])
        splits = job["train_ids"], job["val_ids"]
        fingerprint = recipe.fingerprint(
            dataset.card.content_hash, dataset.groups(splits[0]), dataset.groups(splits[1])
        )
        for name in ("afresh", "resumed"):  # as `train` does; torch's processes can join only once
            run = Run(dataset_task(dataset, *splits, recipe, distributed, warm=False), recipe, distributed, workers=0)
            run.finish(folder / name / f"of rank {rank}", fingerprint, EACH_ITERATION)
            results[name] = content(run.result())
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
