"""Two processes train as one. In float64, where rounding cannot hide an error of one pixel in a thousand.

(In float32 two runs that differ in nothing but the order of a sum drift apart: docs/distributed.md.)
"""

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dbrnet.data.dataset import Dataset
from dbrnet.files import write_json
from dbrnet.provenance import available_cores
from dbrnet.training.checkpoint import CHECKPOINT_FILE
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.loop import HistoryRow
from dbrnet.training.loop import train as run_training
from dbrnet.training.recipe import Recipe
from tests.training.conftest import ALONE, EACH_ITERATION, RECIPE, Splits, content
from tests.training.together import CASES, OHEM_CASES, loss_and_gradient

ROOT = Path(__file__).parents[2]
Results = list[dict[str, Any]]
Job = tuple[Dataset, list[str], list[str], Recipe]

train = functools.partial(run_training, workers=0, checkpoint_seconds=EACH_ITERATION)


@pytest.fixture(scope="module", autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def job(dataset: Dataset, splits: Splits) -> Job:
    """Batches of five, which two processes cannot halve."""
    update = {"steps": 6, "batch_size": 5, "amp": False, "crop": (80, 80)}
    update |= {"auxiliary_weight": 0.8, "ema_decay": 0.8}
    return dataset, *splits, RECIPE.model_copy(update=update)


@pytest.fixture(scope="module")
def alone(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(train(*job, tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def pair(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of each of the two processes."""
    folder = tmp_path_factory.mktemp("pair")
    dataset, train_ids, val_ids, recipe = job

    class StoppedError(Exception): ...

    def stop(row: HistoryRow) -> None:
        assert row.step < recipe.steps
        raise StoppedError

    # A single process begins; the other two resume, the second without a checkpoint to read.
    with pytest.raises(StoppedError):
        train(*job, folder / "resumed" / "of rank 0", on_validation=stop)
    assert (folder / "resumed" / "of rank 0" / CHECKPOINT_FILE).exists()
    ids = {"train_ids": train_ids, "val_ids": val_ids}
    write_json(folder / "job.json", {"root": str(dataset.root), "recipe": recipe.model_dump(mode="json"), **ids})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.together", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("*/of rank 1/*"))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
def test_shares_differ_and_sums_and_first_values_agree(pair: Results) -> None:
    assert [result["share"] for result in pair] == [[0, 2, 4], [1, 3]]
    for result in pair:
        assert result["sum"].tolist() == [2, 11]
        assert result["gathered"].tolist() == [[0, 7], [1, 7]]
        assert result["from first"]["rank"] == 0
        assert result["from first"]["values"][1].tolist() == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_each_process_gets_the_loss_of_the_whole_batch(pair: Results, case: str) -> None:
    loss, gradient = loss_and_gradient(case, ALONE)
    together = torch.empty_like(gradient)
    for rank, result in enumerate(pair):
        own, together[rank::2] = result["losses"][case]
        assert own.item() == pytest.approx(loss.item(), rel=1e-6)
    if "ties" in case:  # which of them count is a matter of order, how many is not
        assert (together != 0).sum() == (gradient != 0).sum()
    else:
        torch.testing.assert_close(together, gradient, rtol=1e-6, atol=1e-12)


def test_the_loss_cases_are_as_named() -> None:
    shares = {}
    for case in OHEM_CASES:
        _, gradient = loss_and_gradient(case, ALONE)
        counted = (gradient != 0).any(1).sum(dim=(1, 2))
        shares[case] = [int(counted[0::2].sum()), int(counted[1::2].sum())]
    valid = 5 * 9 * 11 * 0.8
    assert sum(shares["all hard"]) == pytest.approx(valid, rel=0.1)
    assert valid / 16 * 1.5 < sum(shares["some hard"]) < valid / 1.5
    few = shares["none hard, the sixteenth counts"]
    assert sum(few) == pytest.approx(valid / 16, rel=0.1)
    assert few[0] > 1.7 * few[1] > 0
    assert shares["one process sees nothing valid"][1] == 0
    assert sum(shares["nothing valid"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["afresh", "resumed"])
def test_two_processes_end_in_the_weights_of_one(pair: Results, alone: dict[str, Any], name: str) -> None:
    first, second = (result[name] for result in pair)
    assert first["processes"] == 2
    assert alone["processes"] == 1
    assert first["weights"].keys() == alone["weights"].keys()
    for key, value in first["weights"].items():  # the batch norms' running statistics among them
        torch.testing.assert_close(value, alone["weights"][key], rtol=1e-6, atol=1e-7, msg=key)
        assert torch.equal(value, second["weights"][key]), key
    assert first["step_losses"] == pytest.approx(alone["step_losses"], rel=1e-6)
    assert [row["val_iou"] for row in first["rows"]] == [row["val_iou"] for row in alone["rows"]]
    assert first["chosen"] == alone["chosen"]


def test_a_single_process_shares_nothing() -> None:
    values = torch.arange(3.0, requires_grad=True)
    assert ALONE.sum(values) is values
    assert ALONE.gather(values).tolist() == [[0, 1, 2]]
    assert ALONE.share(range(4)) == [0, 1, 2, 3]
    model = torch.nn.Linear(2, 2)
    assert ALONE.parallel(model) is model


def test_images_are_loaded_by_as_many_processes_as_cores_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = DistributedContext(torch.device("cuda"))
    assert gpu.loading_processes(None) == available_cores()
    assert ALONE.loading_processes(None) == 0
    assert [each.loading_processes(3) for each in (gpu, ALONE)] == [3, 3]
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    assert gpu.loading_processes(None) == available_cores() // 2
