"""The model card."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from dbrnet.reports.decision_facts import Facts
from dbrnet.reports.decision_text import LONGEST, model_card, render_summary
from tests.reports import cases, examples
from tests.reports.cases import CASES
from tests.reports.examples import change


def test_the_card_shows_decision_scores_speed_and_lineage(facts: Facts) -> None:
    card = model_card(facts)
    for line in (
        "# dbrnet-neu-seg version 7",
        "Promoted on 2026-11-23 by ann. All 14 criteria are met; it takes the place of version 5.",
        "No known leak",
        "scores 38.6 % mIoU",
        "14 of 14 criteria passed.",
        "onnxruntime-cpu |              84.7 |",
        "On AMD EPYC, 2 cores, 2 threads, one image of 200 × 200 pixels at a time.",
        "- commit: b562988",
        "content hash f4f433fa",
    ):
        assert line in card
    assert "| mIoU                                  | 75.7 (74.5 to 76.9) | 75.1 (73.9 to 76.3) |" in card


def test_limitations_follow_from_the_records(facts: Facts) -> None:
    card = model_card(facts)
    assert "902 images of NEU-Seg, hot-rolled steel strip in 214 groups" in card
    assert "overlooks 29.9 % of inclusion, 38.8 % of small defects" in card
    evaluation = change(facts.evaluation, defect_free=0, bootstrap__groups=12)
    counts = facts.train.split.counts
    rare = change(counts["train"], images_by_class={**counts["train"].images_by_class, "scratches": 7})
    poor = model_card(replace(cases.rejected(facts), evaluation=evaluation))
    assert "false positives on good steel are not known" in poor
    assert "only 12 groups" in poor
    assert "- LEAKS: 96.4 % of the test images" in poor
    few = change(facts.train, split__counts={**counts, "train": rare})
    assert "scratches (7)" in model_card(replace(facts, train=few))


def test_a_rejections_card_lists_the_unmet_criteria(facts: Facts) -> None:
    card = model_card(cases.rejected(facts))
    assert "10 of 14 criteria passed." in card
    assert card.index("**LEAKS: 96.4 % of the test images") < card.index("## Intended use")
    for reason in ("- mIoU against", "- leaking test images 96.4 %", "- p99, ms: not measured", "- times as fast"):
        assert reason in card


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_card_and_summary_stand_missing_values_and_hostile_text(facts: Facts, case: Callable[[Facts], Facts]) -> None:
    decided = case(facts)
    card = model_card(decided)
    assert render_summary(decided).count("\n") >= 10
    assert len(card) <= LONGEST
    assert "<script" not in card
    assert not re.search(r"(?<!\\)\]\(", card)
    assert "\n# [y]" not in card
    for line in card.splitlines():
        assert line.startswith("| ") == line.endswith(" |")


def test_many_classes_and_long_names_still_fit(facts: Facts) -> None:
    iou = {**facts.evaluation.scores.iou, **{f"{'long' * 9}{number}": 0.5 for number in range(250)}}
    failed = change(examples.criteria()[0], verdict="failed", text="why " * 200)
    card = model_card(
        replace(
            facts,
            evaluation=change(facts.evaluation, scores__iou=iou),
            decision=change(facts.decision, criteria=(failed,) * 250),
        )
    )
    assert len(card) <= LONGEST
    assert card.endswith("Shortened: the review has everything.\n")
    assert "… and 238 more in the review." in card


def test_summary_is_aligned_and_in_percent(facts: Facts) -> None:
    lines = render_summary(facts).splitlines()
    assert "mIoU  75.7 % (74.5 to 76.9) with background, 69.0 % (67.5 to 70.5) over defects" in lines[1]
    assert "inclusion 55.8 %, patches 82.3 %" in lines[4]
    assert "champion  mIoU +0.6 points (−0.3 to +1.5) against version 5, 1.02 (0.98 to 1.06) times as fast" in lines[6]
    assert "LEAKS 96.4 %" in render_summary(cases.rejected(facts))
