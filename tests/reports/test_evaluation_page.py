"""The report: what it says, and that it needs nothing but itself."""

import base64
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.evaluation.figures import defect_counts, estimates
from dbrnet.evaluation.predictions import Predict, evaluate
from dbrnet.records import EvaluationRecord
from dbrnet.reports.evaluation_page import render_report
from dbrnet.reports.gallery import build_gallery
from dbrnet.reports.plots import confusion_plot, training_curves
from tests.evaluation.conftest import RULES
from tests.reports import examples
from tests.reports.examples import parity, scores

HISTORY = [{"epoch": n, "loss": 1 / n, "val_miou": n / 5, "learning_rate": 0.01} for n in (1, 2, 3)]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects attributes and text, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += f" {' '.join(data.split())}"


def record_of(dataset: Dataset, predict: Predict, ids: Sequence[str], confidence: float = 0.9) -> EvaluationRecord:
    """What the evaluate step writes of the model's answers on these images."""
    evaluation = evaluate(predict, dataset, ids, RULES)
    iou = {"background": 0.0, "scratch": -0.034, "dent": None}
    return examples.change(
        examples.evaluation(),
        scores=evaluation.scores,
        figures=estimates(evaluation, confidence),
        bootstrap__confidence=confidence,
        bootstrap__groups=len({image.group for image in evaluation.images}),
        defects=defect_counts(evaluation),
        confusion=tuple(map(tuple, evaluation.confusion.tolist())),
        images=len(evaluation.images),
        images_by_class=evaluation.images_by_class(),
        defect_free=len(evaluation.defect_free),
        false_positives=len(evaluation.false_positives),
        defective=len(evaluation.defective),
        missed=len(evaluation.missed),
        runtimes={
            "onnxruntime-cpu": parity(miou=0.75, differing_pixels=0.00042, max_logit_difference=1.2e-5),
            "openvino-int8": parity(
                "int8", miou=0.75, miou_change=-0.0123, iou_change=iou, differing_pixels=0.2, max_logit_difference=None
            ),
        },
        nn_baseline=scores(miou=0.385),
    )


def report(
    dataset: Dataset, predict: Predict, leaks: str = "yes", history: Sequence[dict[str, float]] = HISTORY
) -> str:
    ids = sorted(dataset.by_id)
    record = examples.change(
        record_of(dataset, predict, ids),
        split__kind="random",
        split__leaks=leaks,
        split__leak_rate={"val": 0.5, "test": 0.964},
        split__leak_note=dataset.card.leak_note,
    )
    train = examples.change(examples.train(), provenance__code_revision="<none>")
    gallery = build_gallery(evaluate(predict, dataset, ids, RULES), dataset, predict, 1)
    return render_report(record, train, examples.export(), dataset.card, history, gallery)


def test_says_what_each_runtime_answers(dataset: Dataset, predict: Predict) -> None:
    text = " ".join(Page(report(dataset, predict)).text.split())
    assert "onnxruntime-cpu, scored here fp32 75.0 0.0 none 0.042 1.2e−05" in text
    assert "openvino-int8 int8 75.0 −1.2 scratch −3.4 20.0 –" in text


def test_opens_offline(dataset: Dataset, predict: Predict) -> None:
    html = report(dataset, predict)
    page = Page(html)
    sources = [value or "" for _, name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 2 + 4 * 3  # two plots, four panels of three images
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(|@import|<script|<link", html)
    assert "https://example.org/tiny" in page.text  # named, not linked
    assert len(html) < 1_000_000


def test_images_decode_and_have_alternative_texts(dataset: Dataset, predict: Predict) -> None:
    page = Page(report(dataset, predict))
    images = [value or "" for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    alternatives = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alternatives) == len(images)
    assert all(alternatives)
    for image in images:
        kind, _, data = image.partition(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/jpeg":
            assert cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None
        else:
            assert ElementTree.fromstring(content).tag.endswith("svg")


def test_leaks_are_said_first(dataset: Dataset, predict: Predict) -> None:
    text = Page(report(dataset, predict, "yes")).text
    assert "LEAKS: 96.4 % of the test images" in text
    assert dataset.card.leak_note in text
    assert text.index("LEAKS") < text.index("mIoU")
    clean = Page(report(dataset, predict, "no")).text
    assert "LEAKS" not in clean
    assert "No known leak" in clean


def test_numbers_and_provenance_are_shown(dataset: Dataset, predict: Predict) -> None:
    text = Page(report(dataset, predict)).text
    scores = evaluate(predict, dataset, sorted(dataset.by_id), RULES).scores
    assert f"{100 * scores.miou:.1f}" in text
    assert f"{100 * (scores.miou_defects or 0):.1f}" in text
    assert "Absent here: stain." in text
    assert "1 of 2 defect-free" in text
    assert "1 of 4 defective" in text
    assert f"Model SHA-256 {examples.CANDIDATE}" in text
    assert "int8 61 of 62 convolutions; mIoU on val −0.1 points (at most 0.5 % may be lost)" in text
    assert "Nearest-neighbour baseline 38.5 %" in text
    assert "<none>" in text  # escaped in the source, shown as it is
    assert "Tiny <made-up> strip" in text


def test_defects_are_counted_by_class_and_by_size(dataset: Dataset, predict: Predict) -> None:
    text = " ".join(Page(report(dataset, predict)).text.split())
    found = {
        name: f"{100 * one.value:.1f} {100 * one.low:.1f} to {100 * one.high:.1f}"
        for name, one in estimates(evaluate(predict, dataset, sorted(dataset.by_id), RULES), 0.9).items()
        if one.value is not None and one.low is not None and one.high is not None
    }
    # Two of three scratches and one of two dents; two scratches are invented, one of them a dent.
    assert f"scratch {found['defect_recall/class/scratch']} 3 2 1 50.0" in text
    assert f"all {found['defect_recall']} 5 3 2 {found['defect_precision']} 5 2 " in text
    assert f"small {found['defect_recall/size/small']} 5 3 2" in text
    assert "On the 2 defect-free images there are 0.50 false positives per image" in text
    assert found["iou/scratch"].removeprefix(f"{100 * 21 / 46:.1f} ") in text
    assert "Intervals hold 90 % of 10,000 resamples of the 5 groups" in text
    assert "medium" not in text.split("Defects", 1)[1].split("A defect is")[0]


def test_without_history_there_are_no_curves(dataset: Dataset, predict: Predict) -> None:
    assert "learning rate over" not in report(dataset, predict, history=())


def test_a_set_without_defects_has_a_report(dataset: Dataset, predict: Predict) -> None:
    record = examples.change(record_of(dataset, predict, ["p0"]), nn_baseline=None, runtimes={})
    gallery = build_gallery(evaluate(predict, dataset, ["p0"], RULES), dataset, predict, 4)
    html = render_report(record, examples.train(), examples.export(), dataset.card, HISTORY[:1], gallery)
    text = Page(html).text
    assert "Absent here: scratch, dent, stain." in text
    assert "0.00" in text  # false positives an image
    assert not re.search(r"\d to \d", text)  # one group: no interval


def test_equal_input_gives_equal_bytes(dataset: Dataset, predict: Predict) -> None:
    assert report(dataset, predict) == report(dataset, predict)


@pytest.mark.parametrize("classes", [2, 7])
def test_plots_are_valid_svg(classes: int) -> None:
    confusion = np.diag(np.arange(classes)).tolist()  # the background's row is empty
    names = [f"class {index}" for index in range(classes)]
    assert ElementTree.fromstring(confusion_plot(confusion, names)).tag.endswith("svg")
    assert ElementTree.fromstring(training_curves(HISTORY)).tag.endswith("svg")
