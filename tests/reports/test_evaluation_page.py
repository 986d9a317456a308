"""The report: what it says, and that it needs nothing but itself."""

import base64
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.evaluation.figures import defect_counts, estimates
from dbrnet.evaluation.predictions import Evaluation, evaluate
from dbrnet.records import EvaluationRecord
from dbrnet.reports.evaluation_page import render_report
from dbrnet.reports.gallery import build_gallery
from dbrnet.reports.plots import confusion_plot, training_curves
from tests.evaluation.conftest import IDS, RULES, answer, tiny_dataset
from tests.reports import examples
from tests.reports.conftest import Page, require_offline
from tests.reports.examples import parity, scores

HISTORY = [{"step": n, "loss": 1 / n, "val_miou": n / 5, "learning_rate": 0.01} for n in (1, 2, 3)]


def record_of(evaluation: Evaluation, confidence: float = 0.9) -> EvaluationRecord:
    """What the evaluate step writes of it."""
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


def report(dataset: Dataset, leaks: str = "yes", history: Sequence[dict[str, float]] = HISTORY) -> str:
    evaluation = evaluate(answer, dataset, IDS, RULES)
    record = examples.change(
        record_of(evaluation),
        split__kind="random",
        split__leaks=leaks,
        split__leak_rate={"val": 0.5, "test": 0.964},
        split__leak_note=dataset.card.leak_note,
    )
    train = examples.change(examples.train(), provenance__code_revision="<none>")
    gallery = build_gallery(evaluation, dataset, answer, 1)
    return render_report(record, train, examples.export(), dataset.card, history, gallery)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def html(tiny: Dataset) -> str:
    """The report on a split that leaks."""
    return report(tiny)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return require_offline(html)


def test_the_parity_of_each_runtime_is_shown(page: Page) -> None:
    assert "onnxruntime-cpu, scored here fp32 75.0 0.0 none 0.042 1.2e−05" in page.text
    assert "openvino-int8 int8 75.0 −1.2 scratch −3.4 20.0 –" in page.text


def test_holds_its_images_which_decode_and_have_alternative_texts(page: Page, html: str) -> None:
    images, alternatives = page.values("src", "img"), page.values("alt", "img")
    assert len(images) == len(alternatives) == 2 + 4 * 3  # two plots, four panels of three images
    assert all(alternatives)
    for image in images:
        kind, _, data = image.partition(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/jpeg":
            assert cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None
        else:
            assert ElementTree.fromstring(content).tag.endswith("svg")
    assert "https://example.org/tiny" in page.text  # named, not linked
    assert len(html) < 1_000_000


def test_leaks_come_first(page: Page, tiny: Dataset) -> None:
    assert page.text.index("LEAKS: 96.4 % of the test images") < page.text.index("mIoU")
    assert tiny.card.leak_note in page.text
    clean = Page(report(tiny, "no", ())).text
    assert "LEAKS" not in clean
    assert "No known leak" in clean
    assert "learning rate over" not in clean  # nor curves, without a history


def test_numbers_and_provenance_are_shown(page: Page, tiny: Dataset) -> None:
    scores = evaluate(answer, tiny, IDS, RULES).scores
    for shown in (
        f"{100 * scores.miou:.1f}",
        f"{100 * (scores.miou_defects or 0):.1f}",
        "Absent here: stain.",
        "1 of 2 defect-free",
        "1 of 4 defective",
        f"Model SHA-256 {examples.CANDIDATE}",
        "int8 61 of 62 convolutions; mIoU on val −0.1 points (at most 0.5 % may be lost)",
        "Nearest-neighbour baseline 38.5 %",
        "<none>",  # escaped in the source, shown as it is
        "Tiny <made-up> strip",
    ):
        assert shown in page.text


def test_defects_are_counted_by_class_and_by_size(page: Page, tiny: Dataset) -> None:
    found = {
        name: f"{100 * one.value:.1f} {100 * one.low:.1f} to {100 * one.high:.1f}"
        for name, one in estimates(evaluate(answer, tiny, IDS, RULES), 0.9).items()
        if one.value is not None and one.low is not None and one.high is not None
    }
    # Two of three scratches and one of two dents; two scratches are invented, one of them a dent.
    for shown in (
        f"scratch {found['defect_recall/class/scratch']} 3 2 1 50.0",
        f"all {found['defect_recall']} 5 3 2 {found['defect_precision']} 5 2 ",
        f"small {found['defect_recall/size/small']} 5 3 2",
        "On the 2 defect-free images there are 0.50 false positives per image",
        found["iou/scratch"].removeprefix(f"{100 * 21 / 46:.1f} "),
        "Intervals hold 90 % of 10,000 resamples of the 5 groups",
    ):
        assert shown in page.text
    assert "medium" not in page.text.split("Defects", 1)[1].split("A defect is")[0]


def test_a_set_without_defects_has_a_report(tiny: Dataset) -> None:
    evaluation = evaluate(answer, tiny, ["p0"], RULES)
    record = examples.change(record_of(evaluation), nn_baseline=None, runtimes={})
    gallery = build_gallery(evaluation, tiny, answer, 4)
    html = render_report(record, examples.train(), examples.export(), tiny.card, HISTORY[:1], gallery)
    assert "Absent here: scratch, dent, stain." in Page(html).text
    assert "0.00" in html  # false positives an image
    assert not re.search(r"\d to \d", Page(html).text)  # one group: no interval


def test_equal_input_gives_equal_bytes(html: str, tiny: Dataset) -> None:
    assert report(tiny) == html


@pytest.mark.parametrize("classes", [2, 7])
def test_plots_are_valid_svg(classes: int) -> None:
    confusion = np.diag(np.arange(classes)).tolist()  # the background's row is empty
    names = [f"class {index}" for index in range(classes)]
    assert ElementTree.fromstring(confusion_plot(confusion, names)).tag.endswith("svg")
    assert ElementTree.fromstring(training_curves(HISTORY)).tag.endswith("svg")
