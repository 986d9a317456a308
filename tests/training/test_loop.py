import functools
import io
import logging
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import Images
from dbrnet.errors import JobError, UserError
from dbrnet.evaluation.metrics import Scores
from dbrnet.files import write_atomically
from dbrnet.training import loop, validation
from dbrnet.training.checkpoint import CHECKPOINT_FILE
from dbrnet.training.loop import HistoryRow, Run
from dbrnet.training.loop import train as run_training
from dbrnet.training.recipe import Recipe
from dbrnet.training.task import dataset_task
from tests.training.conftest import ALONE, EACH_ITERATION, NAMES, NEVER, RECIPE, Splits, content

train = functools.partial(run_training, workers=0, checkpoint_seconds=NEVER)
# Averaged weights are a part of what must survive a kill.
AVERAGED = RECIPE.model_copy(update={"steps": 10, "ema_decay": 0.8})


@pytest.fixture(scope="module")
def uninterrupted(dataset: Dataset, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(train(dataset, *splits, AVERAGED, tmp_path_factory.mktemp("uninterrupted")))


def assert_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result["weights"].keys() == expected["weights"].keys()
    assert all(torch.equal(value, expected["weights"][name]) for name, value in result["weights"].items())
    for key in ("rows", "chosen", "step_losses"):
        assert result[key] == expected[key]


def train_to_file(root: Path, splits: Splits, workdir: Path, out: Path) -> None:
    """What the killed process runs."""
    torch.set_num_threads(1)
    file = io.BytesIO()
    result = train(Dataset.load(root), *splits, AVERAGED, workdir, checkpoint_seconds=EACH_ITERATION)
    torch.save(content(result), file)
    write_atomically(out, file.getvalue())


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_in_the_same_bits(
    dataset: Dataset, splits: Splits, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["dbrnet.training.loop", "torch._dynamo"])
    workdir, out = tmp_path / "work", tmp_path / "result.pt"
    kills = 0
    deadline = time.monotonic() + 120

    def written() -> int:
        path = workdir / CHECKPOINT_FILE
        return path.stat().st_mtime_ns if path.exists() else 0

    while not out.exists():
        child = processes.Process(target=train_to_file, args=(dataset.root, splits, workdir, out))
        child.start()
        seen, last = 0, written()
        # Now in the middle of a write, now in the middle of an iteration, and always after some progress.
        while child.is_alive() and seen < 2 + kills % 2:
            assert time.monotonic() < deadline
            time.sleep(0.002)
            seen, last = seen + (written() != last), written()
        while kills % 3 == 0 and child.is_alive() and not list(workdir.glob("*.partial")):
            time.sleep(0.0005)
        time.sleep(0.02 * (kills % 3))
        child.kill()
        child.join()
        kills += child.exitcode == -9
    assert kills >= 3
    assert_same(torch.load(out, weights_only=True), uninterrupted)


def test_a_training_stopped_after_a_validation_ends_in_the_same_bits(
    dataset: Dataset, splits: Splits, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    def stop(row: HistoryRow) -> None:
        if row.step < AVERAGED.steps:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(dataset, *splits, AVERAGED, tmp_path, on_validation=stop)
    assert_same(content(train(dataset, *splits, AVERAGED, tmp_path)), uninterrupted)


def test_a_finished_training_is_not_repeated(
    dataset: Dataset, splits: Splits, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    first = train(dataset, *splits, AVERAGED, tmp_path)
    assert_same(content(first), uninterrupted)  # the same seed, the same bits
    rows: list[HistoryRow] = []
    again = train(dataset, *splits, AVERAGED, tmp_path, on_validation=rows.append)
    assert not rows
    assert again.history == first.history
    assert_same(content(again), uninterrupted)


def test_each_validation_is_reported_once_and_the_last_weights_are_kept(
    dataset: Dataset, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "MOST", 3)
    monkeypatch.setattr(validation, "FEWEST", 3)
    monkeypatch.setattr(validation, "SHARE", 1.0)
    rows: list[HistoryRow] = []
    result = train(dataset, *splits, RECIPE, tmp_path, on_validation=rows.append)
    assert tuple(rows) == result.history
    assert [row.step for row in rows] == [3, 6, 9]
    assert (result.chosen_step, result.val_miou) == (9, rows[-1].val_miou)
    for row in rows:
        assert row.loss == pytest.approx(row.main_loss + RECIPE.auxiliary_weight * row.auxiliary_loss)
        assert row.loss == pytest.approx(sum(result.step_losses[row.step - 3 : row.step]) / 3)
        assert tuple(row.val_iou) == NAMES
    assert result.meta.classes == dataset.card.classes
    assert not result.model.training


def new_run(dataset: Dataset, splits: Splits, recipe: Recipe = RECIPE) -> Run:
    return Run(dataset_task(dataset, *splits, recipe, ALONE, warm=False), recipe, ALONE, workers=0)


@pytest.mark.parametrize(
    ("favourites", "chosen"),  # all background scores best, since most pixels are
    [([(1, 0), (0, 3), (0, 4)], 3), ([(0, 3), (0, 4), (1, 0)], 1)],
    ids=["the last", "the best, where the last are broken"],
)
def test_which_weights_are_kept(
    dataset: Dataset, splits: Splits, favourites: list[tuple[int, int]], chosen: int
) -> None:
    run = new_run(dataset, splits, RECIPE.model_copy(update={"steps": 3}))
    name, bias = [(name, value) for name, value in run.model.head.named_parameters() if name.endswith("bias")][-1]
    for favourite, better in favourites:
        bias.data.copy_(torch.tensor([better + 1e3 if kind == favourite else 0.0 for kind in range(3)]))
        run.losses.append([1.0, 1.0, 0.0])
        run.step += 1
        run.validate()
    result = run.result()
    assert (result.chosen_step, result.val_miou) == (chosen, run.history[chosen - 1].val_miou)
    assert result.model.head.state_dict()[name][0] == favourites[chosen - 1][1] + 1e3


def test_the_last_validation_is_on_all_images_and_names_what_is_still_missing(
    dataset: Dataset, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "FEWEST", 9)
    scored: list[tuple[int, ...]] = []

    def validate(*arguments: Any) -> Any:
        scored.append(arguments[2])
        return validation.validate(*arguments)

    monkeypatch.setattr(loop, "validate", validate)
    nothing = iter(["nothing was found", None, None])
    monkeypatch.setattr(loop, "nothing_found", lambda *_: next(nothing))
    result = train(dataset, *splits, RECIPE, tmp_path)
    assert len(scored) == len(result.history) + 1 == 4
    assert scored[0] == scored[1] == scored[2]
    assert sorted(scored[2] + scored[3]) == list(range(6))
    assert result.warnings == ()
    network = result.model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    meta = result.meta
    mean, std = torch.tensor(meta.mean), torch.tensor(meta.std)
    counts = validation.validate(network, Images(dataset, splits[1]), range(6), 3, mean, std, 1.0, 4, ALONE)
    assert Scores.from_confusion(counts, NAMES).miou == result.val_miou


def test_a_resumed_run_draws_the_random_numbers_of_an_uninterrupted_one(dataset: Dataset, splits: Splits) -> None:
    """As a network with dropout does."""
    run = new_run(dataset, splits)
    torch.rand(3)
    state = run.state()
    expected = torch.rand(3)
    new_run(dataset, splits).load_state(state)
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_starts_afresh(
    dataset: Dataset, splits: Splits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = RECIPE.model_copy(update={"steps": 2})
    first = train(dataset, *splits, short, tmp_path)
    with caplog.at_level(logging.WARNING):
        other = train(dataset, *splits, short.model_copy(update={"seed": 4}), tmp_path)
    assert "another recipe" in caplog.text
    assert first.step_losses != other.step_losses


@pytest.mark.slow
def test_training_learns(dataset: Dataset, splits: Splits, tmp_path: Path) -> None:
    longer = RECIPE.model_copy(update={"steps": 60, "learning_rate": 0.05, "batch_size": 7, "ema_decay": 0.9})
    result = train(dataset, *splits, longer, tmp_path)
    assert result.val_miou > 0.6
    assert result.history[-1].loss < 0.5 * result.history[0].loss


def test_a_single_zoomed_image_trains(dataset: Dataset, splits: Splits, tmp_path: Path) -> None:
    update = {"steps": 1, "zoom": 1.5, "crop": (48, 48), "normalise_exposure": True}
    result = train(dataset, splits[0][:1], splits[1][:1], RECIPE.model_copy(update=update), tmp_path)
    assert len(result.step_losses) == 1
    assert (result.meta.zoom, result.meta.normalised) == (1.5, True)
    assert result.meta.mean == pytest.approx((0.5,) * 3, abs=0.02)


def test_a_train_split_without_defects_is_refused(dataset: Dataset, splits: Splits, tmp_path: Path) -> None:
    sound = tuple(replace(sample, classes=()) for sample in dataset.samples)
    with pytest.raises(UserError, match=r"nothing to learn, and nothing to paste \(train\.paste\)"):
        train(replace(dataset, samples=sound), *splits, RECIPE, tmp_path)


def test_a_zoom_that_leaves_too_little_is_refused(dataset: Dataset, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.zoom 0\.5 makes an image of 48 pixels smaller than the 32"):
        train(dataset, *splits, RECIPE.model_copy(update={"zoom": 0.5}), tmp_path)


def test_divergence_is_one_clear_line(dataset: Dataset, splits: Splits, tmp_path: Path) -> None:
    diverging = RECIPE.model_copy(update={"learning_rate": 1e12, "warmup_steps": 0})
    with pytest.raises(JobError, match=r"diverged: the loss is .* iteration \d+, at learning rate"):
        train(dataset, *splits, diverging, tmp_path)


def test_an_empty_split_is_refused(dataset: Dataset, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validation split is empty"):
        train(dataset, splits[0], (), RECIPE, tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        train(dataset, ["nowhere"], splits[1], RECIPE, tmp_path)
