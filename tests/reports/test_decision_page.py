"""The decision's page: what it says, in which order, and that it needs nothing but itself."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from dbrnet.errors import JobError
from dbrnet.reports.decision_facts import Facts
from dbrnet.reports.decision_page import render_review
from tests.reports import cases, examples
from tests.reports.cases import CASES
from tests.reports.conftest import Page, require_offline
from tests.reports.examples import change, figure


def text_of(facts: Facts) -> str:
    return Page(render_review(facts)).text


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the page says of the candidate that was promoted in place of version 5."""
    return text_of(cases.facts(tmp_path_factory.mktemp("facts")))


def test_the_verdict_comes_first_with_reason_and_author(promoted: str) -> None:
    assert "Compared with version 5, on the same 902 images" in promoted
    assert "Decided on 2026-11-23 08:05 UTC by ann" in promoted
    assert "Promoted All 14 criteria are met; it takes the place of version 5. Champion now: version 7." in promoted
    assert promoted.index("All 14 criteria") < promoted.index("Worst regression") < promoted.index("75.7")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            {"champion_before": 7},
            "All 14 criteria are met, and it was promoted before. Version 7 is the champion already and stays.",
        ),
        ({"champion_before": None}, "there was no champion before."),
        ({"champion_now": 5}, "it takes the place of version 5. Champion now: version 5."),
        (
            {"answer": "rejected", "champion_now": 6, "reasons": ("version 6 had become champion",)},
            "Not promoted, though it passed All 14 criteria are met, but: version 6 had become champion. "
            "Champion now: version 6.",
        ),
        (
            {"answer": "needs review", "champion_now": 5, "reasons": ("speed cannot be told from 0.9",)},
            "A person decides: speed cannot be told from 0.9. Champion now: version 5. "
            "Decide with dbrnet registry approve 7",
        ),
    ],
)
def test_each_outcome_is_explained(facts: Facts, outcome: dict[str, object], said: str) -> None:
    assert said in text_of(replace(facts, promotion=change(facts.promotion, **outcome)))


def test_a_rejection_lists_the_unmet_criteria_first(facts: Facts) -> None:
    text = text_of(cases.rejected(facts))
    assert (
        "Rejected 3 of 14 criteria are not met: mIoU against the champion −2.10 points (−3.40 to −1.03) is below "
        "−1.00 points; leaking test images 96.4 % is above 0.0 %; and 1 more."
    ) in text
    assert "LEAKS: 96.4 % of the test images" in text[: text.index("Worst regression")]
    not_met = text[text.index("Not met") : text.index("frames per second 84.7; at least")]
    assert "✗ failed mIoU against the champion −2.10 points (−3.40 to −1.03); at least −1.00 points is" in not_met
    assert "? not measured p99, ms no figure; at most 40.0 is required" in not_met
    assert "≈ inconclusive times as fast as the champion" in not_met


def test_tables_show_both_models_and_their_difference(promoted: str) -> None:
    assert "mIoU 75.7 % 74.5 to 76.9 75.1 % 73.9 to 76.3 +0.6 −0.3 to +1.5 ≈ unclear" in promoted
    assert "scratches 68.8 % 67.0 to 70.6 70.5 % 69.3 to 71.7 −1.7 −2.8 to −0.6 ▼ worse" in promoted
    assert "small 257 of 420 found 61.2 %" in promoted
    assert "0.13 0.10 to 0.16 0.18 0.17 to 0.20 −0.05 −0.07 to −0.03 ▲ better" in promoted  # fewer false positives
    assert "▼ worse defect-free images flagged +2.1 , IoU of scratches −1.7" in promoted


def test_an_equal_candidate_reads_as_the_same(facts: Facts) -> None:
    unchanged = {name: figure(0.0, 0.0, own.unit) for name, own in examples.DIFFERENCE_FIGURES.items()}
    compared = change(facts.compared, figures=examples.FIGURES, difference=unchanged)
    text = text_of(replace(facts, evaluation=change(facts.evaluation, champion__compared=compared)))
    assert "mIoU 75.7 % 74.5 to 76.9 75.7 % 74.5 to 76.9 0.0 0.0 to 0.0 = the same" in text
    assert "unclear" not in text


def test_regressions_come_first_the_worst_of_them_ahead(facts: Facts) -> None:
    shuffled = tuple(reversed(facts.evaluation.disagreements))
    html = render_review(replace(facts, evaluation=change(facts.evaluation, disagreements=shuffled)))
    order = [html.index(f"<strong>{id_}</strong>") for id_ in ("test-000437", "training-003831", "training-001467")]
    assert order == sorted(order)
    worst = html[html.index('id="regression-1"') : html.index('id="regression-2"')]
    assert "test-000437" in worst
    assert "13.1 % of the image more than the champion" in worst
    assert re.findall(r"<figcaption>(.*?)</figcaption>", worst) == list(cases.CAPTIONS)
    assert "candidate 83.0 %, champion –" in html
    assert '<span class="swatch" style="background:#e69f00"></span>inclusion' in html


def test_data_speed_leaks_and_lineage_are_shown(promoted: str) -> None:
    assert "images 4,512 4,224 +288" in promoted
    assert "scratches 990 742 +248" in promoted
    assert "inclusion 1,450 1,450 the same" in promoted
    assert "candidate, onnxruntime-cpu 84.7 11.8" in promoted
    assert "1.02 times as fast as the champion (0.98 to 1.06" in promoted
    assert "Version 5 was trained on 12.4 % of these test images, so the comparison flatters it" in promoted
    assert "scores 38.6 % mIoU" in promoted
    for fact in ("b562988", "5a746aa", "f4f433fa", "17aa90c2", examples.CANDIDATE, examples.CHAMPION):
        assert fact in promoted


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_page_opens_offline_with_missing_values_and_hostile_text(
    facts: Facts, case: Callable[[Facts], Facts]
) -> None:
    require_offline(render_review(case(facts)))


def test_the_latencies_of_both_sides_are_drawn(facts: Facts) -> None:
    lines = facts.durations.read_text().splitlines()
    heights = {}
    for case, without in (("both", "none"), ("one", "(champion)"), ("none", "onnxruntime-cpu")):
        facts.durations.write_text("\n".join(line for line in lines if without not in line) + "\n")
        plot = re.search(r'class="plot" src="data:image/png;base64,([^"]+)"', render_review(facts))
        heights[case] = None if plot is None else int.from_bytes(base64.b64decode(plot[1])[20:24], "big")
    assert heights["none"] is None
    assert (heights["both"] or 0) > (heights["one"] or 0) > 0


def test_without_a_champion_nothing_is_compared(facts: Facts) -> None:
    text = text_of(cases.first(facts))
    assert "There was no champion to compare with" in text
    assert "There is no champion's answer" in text
    assert "Worst regression" not in text
    assert "Differences are" not in text
    assert "Since the champion" not in text
    assert "unclear" not in text


def test_the_reason_for_no_comparison_is_shown(facts: Facts) -> None:
    text = text_of(cases.not_compared(facts))
    assert "Version 5 was not compared: its classes are others: crack." in text
    assert "The champion was not timed: it cannot run in onnxruntime-cpu." in text
    assert "images 4,512 – not known" in text


def test_a_panel_outside_the_folder_is_refused(facts: Facts) -> None:
    image, *others = facts.evaluation.disagreements
    outside = change(image, panels={**image.panels, "image": "../../etc/secret.png"})
    with pytest.raises(JobError, match="no image in"):
        render_review(replace(facts, evaluation=change(facts.evaluation, disagreements=(outside, *others))))
