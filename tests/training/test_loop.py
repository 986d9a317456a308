import io
import logging
import multiprocessing
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dbrnet.data.dataset import Dataset
from dbrnet.errors import JobError, UserError
from dbrnet.files import write_atomically
from dbrnet.training.checkpoint import CHECKPOINT_FILE
from dbrnet.training.distributed import World
from dbrnet.training.loop import EpochRow, TrainResult, _Run, train
from dbrnet.training.recipe import Recipe

Parts = tuple[list[str], list[str]]


@pytest.fixture
def splits(train_ids: list[str], val_ids: list[str]) -> Parts:
    return train_ids, val_ids


@pytest.fixture
def averaged(recipe: Recipe) -> Recipe:
    """With averaged weights, which are split of what must survive a kill."""
    return replace(recipe, epochs=2, ema_decay=0.8)


@pytest.fixture
def uninterrupted(dataset: Dataset, splits: Parts, averaged: Recipe, tmp_path: Path) -> dict[str, Any]:
    return content(train(dataset, *splits, averaged, tmp_path / "uninterrupted"))


def content(result: TrainResult) -> dict[str, Any]:
    """All of a result that must not depend on interruptions."""
    rows = [asdict(row) for row in result.history]
    for row in rows:
        del row["seconds"], row["images_per_second"]
    return {
        "weights": result.model.state_dict(),
        "rows": rows,
        "best": (result.best_epoch, result.best_miou),
        "step_losses": list(result.step_losses),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    weights, others = one["weights"], other["weights"]
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert [one[key] for key in ("rows", "best", "step_losses")] == [
        other[key] for key in ("rows", "best", "step_losses")
    ]


def train_to_file(root: Path, splits: Parts, recipe: Recipe, workdir: Path, out: Path) -> None:
    """What the killed process runs."""
    torch.set_num_threads(1)
    file = io.BytesIO()
    torch.save(content(train(Dataset.load(root), *splits, recipe, workdir)), file)
    write_atomically(out, file.getvalue())


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bits(
    dataset: Dataset, splits: Parts, averaged: Recipe, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["dbrnet.training.loop", "torch._dynamo"])
    recipe = replace(averaged, checkpoint_seconds=1e-3)  # after each iteration
    workdir, out = tmp_path / "work", tmp_path / "result.pt"
    arguments = (dataset.root, splits, recipe, workdir, out)
    kills = 0
    deadline = time.monotonic() + 120
    while not out.exists():
        child = processes.Process(target=train_to_file, args=arguments)
        child.start()
        seen, last = 0, _written(workdir)
        # Now in the middle of a write, now in the middle of an iteration, and always after some progress.
        while child.is_alive() and seen < 2 + kills % 2:
            assert time.monotonic() < deadline
            time.sleep(0.002)
            seen, last = seen + (_written(workdir) != last), _written(workdir)
        while kills % 3 == 0 and child.is_alive() and not list(workdir.glob("*.partial")):
            time.sleep(0.0005)
        time.sleep(0.02 * (kills % 3))
        child.kill()
        child.join()
        kills += child.exitcode == -9
    assert kills >= 3
    assert_same(torch.load(out, weights_only=True), uninterrupted)


def _written(workdir: Path) -> int:
    path = workdir / CHECKPOINT_FILE
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_finished_run_is_not_done_again(
    dataset: Dataset, splits: Parts, averaged: Recipe, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    first = train(dataset, *splits, averaged, tmp_path)
    assert_same(content(first), uninterrupted)  # the same seed, the same bits
    rows: list[EpochRow] = []
    again = train(dataset, *splits, averaged, tmp_path, on_epoch=rows.append)
    assert not rows
    assert again.history == first.history
    assert_same(content(again), uninterrupted)


def test_each_epoch_is_told_once_and_the_best_is_kept(
    dataset: Dataset, splits: Parts, recipe: Recipe, tmp_path: Path
) -> None:
    rows: list[EpochRow] = []
    result = train(dataset, *splits, recipe, tmp_path, on_epoch=rows.append)
    assert tuple(rows) == result.history
    assert [(row.epoch, row.step) for row in rows] == [(1, 3), (2, 6), (3, 9)]
    assert result.best_miou == max(row.val_miou for row in rows)
    assert result.best_epoch == next(row.epoch for row in rows if row.val_miou == result.best_miou)
    for row in rows:
        assert row.loss == pytest.approx(row.main_loss + recipe.auxiliary_weight * row.auxiliary_loss)
        assert row.loss == pytest.approx(sum(result.step_losses[row.step - 3 : row.step]) / 3)
        assert set(row.val_iou) == {"background", "dark", "light"}
    assert result.meta.classes == dataset.card.classes
    assert not result.model.training


def test_the_best_epochs_weights_are_kept_the_earlier_of_equals(
    dataset: Dataset, splits: Parts, recipe: Recipe
) -> None:
    run = _Run(dataset, *splits, recipe, World(torch.device("cpu")))
    last = [module for module in run.model.head.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    assert last.bias is not None
    for favourite, better in ((1, 0), (0, 3), (0, 4), (2, 0)):  # all background scores best: most pixels are
        last.bias.data.copy_(torch.tensor([better + 1e3 if kind == favourite else 0.0 for kind in range(3)]))
        run.losses += [[1.0, 1.0, 0.0]] * 3
        run.finish_epoch()
    scores = [row.val_miou for row in run.history]
    assert scores[0] < scores[1] == scores[2] > scores[3]
    result = run.result()
    assert (result.best_epoch, result.best_miou) == (2, scores[1])
    assert result.model.state_dict()[_name(result.model, last)].tolist() == [1003.0, 0.0, 0.0]


def _name(model: torch.nn.Module, conv: torch.nn.Conv2d) -> str:
    return next(name for name, value in model.named_parameters() if value is conv.bias)


def test_another_seed_or_recipe_starts_afresh(
    dataset: Dataset, splits: Parts, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(recipe, epochs=1)
    first = train(dataset, *splits, short, tmp_path)
    with caplog.at_level(logging.WARNING):
        other = train(dataset, *splits, replace(short, seed=4), tmp_path)
    assert "another recipe" in caplog.text
    assert first.step_losses != other.step_losses


@pytest.mark.slow
def test_learns(dataset: Dataset, splits: Parts, recipe: Recipe, tmp_path: Path) -> None:
    longer = replace(recipe, epochs=20, learning_rate=0.05, scale=(1.0, 1.0), batch_size=7)
    result = train(dataset, *splits, longer, tmp_path)
    assert result.best_miou > 0.6
    assert result.history[-1].loss < 0.7 * result.history[0].loss  # of the hard pixels alone


def test_a_single_image_and_a_resized_one_train(
    dataset: Dataset, splits: Parts, recipe: Recipe, tmp_path: Path
) -> None:
    resized = replace(recipe, epochs=1, image_size=(40, 56), crop=(48, 48), normalise_exposure=True)
    result = train(dataset, splits[0][:1], splits[1][:1], resized, tmp_path)
    assert len(result.step_losses) == 1
    assert result.meta.image_size == (40, 56)
    assert result.meta.normalised
    assert result.meta.mean == pytest.approx((0.5,) * 3, abs=0.02)


def test_nothing_but_defect_free_images_and_none_of_them_wanted(
    dataset: Dataset, splits: Parts, recipe: Recipe, tmp_path: Path
) -> None:
    free = Dataset(dataset.root, dataset.card, tuple(replace(each, classes=()) for each in dataset.samples))
    with pytest.raises(UserError, match=r"train\.defect_free leaves nothing to train on"):
        train(free, *splits, replace(recipe, defect_free=0.0), tmp_path)


def test_divergence_is_one_clear_line(dataset: Dataset, splits: Parts, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"diverged: the loss is .* epoch \d+, iteration \d+, at learning rate"):
        train(dataset, *splits, replace(recipe, learning_rate=1e12, warmup_epochs=0.0), tmp_path)


def test_an_empty_part_is_refused(dataset: Dataset, splits: Parts, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validation split is empty"):
        train(dataset, splits[0], (), recipe, tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        train(dataset, ["nowhere"], splits[1], recipe, tmp_path)


def test_the_fingerprint_knows_what_decides_the_weights(recipe: Recipe, splits: Parts) -> None:
    train_ids, val_ids = splits
    mine = recipe.fingerprint("hash", train_ids, val_ids)
    assert replace(recipe, workers=4, checkpoint_seconds=1.0).fingerprint("hash", train_ids, val_ids) == mine
    others = {
        replace(recipe, epochs=4).fingerprint("hash", train_ids, val_ids),
        replace(recipe, affm=False).fingerprint("hash", train_ids, val_ids),
        recipe.fingerprint("other", train_ids, val_ids),
        recipe.fingerprint("hash", train_ids[1:], val_ids),
        recipe.fingerprint("hash", [*train_ids, val_ids[0]], val_ids[1:]),
    }
    assert mine not in others
    assert len(others) == 5
