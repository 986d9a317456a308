"""Records: what is written is read again, and what is foreign is one line; numbers in one form."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dbrnet.errors import UserError
from dbrnet.provenance import collect_provenance
from dbrnet.records import (
    MISSING,
    DecisionRecord,
    Estimate,
    EvaluationRecord,
    Record,
    TrainRecord,
    Unit,
    flatten,
    format_value,
    read_history,
    write_history,
)
from tests.reports import cases, examples

RECORDS: list[Record] = [
    examples.train(),
    examples.export(),
    examples.champion_record(),
    examples.no_champion(),
    examples.evaluation(),
    examples.benchmark(),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_reads_what_it_wrote(record: Record, tmp_path: Path) -> None:
    record.save(tmp_path)
    assert type(record).load(tmp_path) == record
    assert json.loads((tmp_path / record.FILE).read_text())["schema_version"] == 1


def test_decision_holds_criteria_and_promotion(tmp_path: Path) -> None:
    facts = cases.facts(tmp_path)
    record = DecisionRecord(
        **vars(facts.decision), promotion=facts.promotion, run_id="1", provenance=collect_provenance()
    )
    record.save(tmp_path)
    assert DecisionRecord.load(tmp_path) == record
    assert (record.answer, record.promotion.version) == ("promoted", 7)


def broken(change: dict[str, Any]) -> str:
    return json.dumps(json.loads(examples.train().model_dump_json()) | change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"train\.json does not exist; run the step that writes it first"),
        ("{", r"train\.json is not valid JSON"),
        ("[]", r"train\.json does not hold a JSON object"),
        ("{}", r"train\.json has schema version None, and this dbrnet reads 1; run `dbrnet train` again"),
        (broken({"schema_version": 2}), r"has schema version 2, and this dbrnet reads 1"),
        (broken({"run_id": 7}), r"is not what `dbrnet train` writes \(run_id: Input should be a valid string\)"),
        (broken({"split": {}}), r"writes \(split\.kind: Field required\); run `dbrnet train` again"),
        (broken({"more": 1}), r"writes \(more: Extra inputs are not permitted\)"),
    ],
)
def test_a_missing_broken_or_foreign_file_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "train.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        TrainRecord.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "0.7"])
def test_figures_are_finite_numbers(value: Any, tmp_path: Path) -> None:
    content = json.loads(examples.evaluation().model_dump_json())
    content["figures"]["miou"]["value"] = value
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"figures\.miou\.value"):
        EvaluationRecord.load(tmp_path)
    if isinstance(value, float):
        with pytest.raises(ValidationError):
            Estimate(value=value)


def test_records_are_immutable() -> None:
    with pytest.raises(ValidationError):
        examples.train().run_id = "another"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.7568, "share", "75.7 %"),
        (0.00042, "share", "0.042 %"),
        (0.0, "share", "0.0 %"),
        (0.0057, "points", "+0.6 points"),
        (-0.021, "points", "−2.1 points"),
        (-0.0, "points", "0.0 points"),
        (0.1344, "count", "0.13"),
        (-0.05, "difference", "−0.05"),
        (1.02, "ratio", "1.02"),
        (84.66, "fps", "84.7"),
        (11.83, "ms", "11.8"),
        (1.07e-5, "number", "1.07e−05"),
        (None, "share", MISSING),
    ],
)
def test_numbers_have_one_form(value: float | None, unit: Unit, text: str) -> None:
    assert format_value(value, unit) == text


@given(st.floats(-10, 10))
def test_a_nonzero_share_never_reads_as_zero(value: float) -> None:
    assert (float(format_value(value, "share", bare=True).replace("−", "-")) == 0) == (100 * value == 0)


def test_estimate_shows_its_interval() -> None:
    figure = Estimate(value=0.7568, low=0.7448, high=0.7688, unit="share")
    assert str(figure) == "75.7 % (74.5 to 76.9)"
    assert figure.text(bare=True) == "75.7 (74.5 to 76.9)"
    assert figure.text(extra=1) == "75.68 % (74.48 to 76.88)"
    assert (figure.interval, Estimate(value=0.5, unit="share").interval) == ("74.5 to 76.9", "")
    assert str(Estimate(value=None, unit="share")) == MISSING


def test_history_keeps_what_each_validation_has(tmp_path: Path) -> None:
    rows = [{"step": 1.0, "loss": 0.5}, {"step": 2.0, "loss": 0.25, "val_iou_dent": 0.125}]
    write_history(tmp_path, rows)
    assert read_history(tmp_path) == rows
    with pytest.raises(UserError, match=r"history\.csv does not exist; run `dbrnet train` first"):
        read_history(tmp_path / "nowhere")


def test_nested_settings_are_flattened() -> None:
    assert flatten({"seed": 0, "model": {"lfem": True, "deep": {"x": None}}}) == {
        "seed": 0,
        "model.lfem": True,
        "model.deep.x": None,
    }
