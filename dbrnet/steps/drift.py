"""Before a scheduled run: has enough changed since the champion was trained to train again?"""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dbrnet.config import DriftParams
from dbrnet.data import open_dataset
from dbrnet.data.dataset import CARD_FILE, SAMPLES_FILE, Card, Dataset
from dbrnet.data.image_stats import FEATURES, IMAGE_STATS_FILE
from dbrnet.drift.checks import FALSE_ALARMS, Feature, check_classes, check_count, check_feature
from dbrnet.drift.new_samples import Images, NewSamples, find_new_samples, open_current, read_image
from dbrnet.evaluation.predictions import IMAGES_TABLE
from dbrnet.files import atomic_directory, write_atomically
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.inference.runtimes.registry import open_model
from dbrnet.progress import progress
from dbrnet.provenance import collect_provenance
from dbrnet.records import ChampionRecord, DriftCheck, DriftImages, DriftRecord
from dbrnet.reports.plots import Panel, drift_plot
from dbrnet.steps.checks import class_difference

log = logging.getLogger(__name__)

NEEDED = (CARD_FILE, SAMPLES_FILE, IMAGE_STATS_FILE, IMAGES_TABLE)  # of the tables beside the champion
CONFIDENCE = "confidence"
CONFIDENCE_IMAGES = 500  # new images for the network at most, drawn at random
UNITS = FEATURES | {CONFIDENCE: "the network's mean confidence, 0 to 1"}

Sides = tuple[Feature, Feature]  # the champion's images and the new ones


def drift(params: DriftParams, dataset: Path, champion: Path, *, out: Path) -> None:
    """Answer whether retraining is warranted: yes or no, with each reason, its figure and its threshold.

    The images of DATASET (an ingested dataset, or a plain folder of unlabelled images) that are new to
    CHAMPION are compared with those that it was trained on, by the tables that come with it: the number of
    labelled images, the class balance, light and texture, and the network's confidence. The answer is yes
    too where nothing can be compared: no champion, one without tables, other classes. Both answers are exit
    status 0. Writes drift.json and, where there was a comparison, drift.png (each feature's distributions)
    under --out.
    """
    present, record = open_current(dataset), ChampionRecord.load(champion)
    hindrance = _hindrance(record, champion, present)
    comparison = _Comparison([hindrance]) if hindrance else _compare(params, present, champion)
    reference = comparison.reference.card if comparison.reference else None
    drift_record = DriftRecord(
        answer="yes" if comparison.reasons else "no",
        reasons=tuple(comparison.reasons),
        notes=tuple(comparison.notes),
        checks=tuple(comparison.checks),
        images=comparison.images,
        unusable=comparison.unusable,
        reference=reference.content_hash if reference else None,
        reference_name=reference.name if reference else None,
        current=str(dataset),
        content_hash=comparison.content_hash,
        model_name=record.model_name,
        model_version=record.version,
        model_sha256=record.sha256,
        model_metadata=comparison.metadata,
        params=params.model_dump() | {"false_alarms": FALSE_ALARMS},
        provenance=collect_provenance(),
    )
    with atomic_directory(out, "drift") as folder:
        drift_record.save(folder)
        if comparison.features:
            plot = _plot(comparison.features, comparison.checks, drift_record.answer)
            write_atomically(folder / "drift.png", plot)
    log.info("is retraining warranted? %s", drift_record.answer)
    for reason in comparison.reasons:
        log.info("  YES  %s", reason)
    for check in comparison.checks:
        if not check.warrants:
            log.info("  no   %s", check.text)
    for note in comparison.notes:
        log.info("note: %s", note)
    if comparison.features:
        log.info("the distributions: %s", out / "drift.png")


@dataclass(frozen=True)
class _Comparison:
    """The reasons for a retraining, and, where there was a comparison, what they rest on."""

    reasons: list[str]
    notes: list[str] = field(default_factory=list)
    checks: list[DriftCheck] = field(default_factory=list)
    features: dict[str, Sides] = field(default_factory=dict)
    images: DriftImages | None = None
    unusable: tuple[str, ...] = ()
    content_hash: str | None = None
    reference: Dataset | None = None
    metadata: dict[str, str] = field(default_factory=dict)  # of the champion's file


def _hindrance(record: ChampionRecord, champion: Path, present: Dataset | Path) -> str | None:
    """Why nothing can be compared, which warrants a retraining: skipping it without evidence would be worse."""
    number = record.version
    if number is None:
        return "there is no champion yet"
    if missing := [name for name in NEEDED if not (champion / name).exists()]:
        return (
            f"the champion, version {number}, was registered without {', '.join(missing)}, which drift "
            "compares with; the next champion will have them"
        )
    if isinstance(present, Dataset):
        difference = class_difference(Card.load(champion).classes, present.card.classes, "the dataset")
        if difference:
            return f"the champion, version {number}, {difference}; a network of other classes is trained anew"
    return None


def _compare(params: DriftParams, present: Dataset | Path, champion: Path) -> _Comparison:
    reference = open_dataset(champion)
    new_samples = find_new_samples(reference, present)
    network, notes = _open(champion / "model.onnx")
    features = _features(new_samples, network, champion)
    checks = [
        check_count(new_samples, params.min_new_images),
        check_classes(new_samples, reference.card.classes, params.max_class_shift),
        *(
            check_feature(name, UNITS[name], *sides, limit=params.max_image_drift, comparisons=len(features))
            for name, sides in features.items()
        ),
    ]
    return _Comparison(
        reasons=[check.text for check in checks if check.warrants],
        notes=notes + _notes(new_samples, checks, params.max_image_drift),
        checks=checks,
        features=features,
        images=DriftImages(
            reference=len(new_samples.reference),
            reference_groups=len(set(new_samples.reference.groups)),
            known=new_samples.known,
            relabelled=new_samples.relabelled,
            new=len(new_samples.new),
            new_groups=len(set(new_samples.new.groups)),
        ),
        unusable=new_samples.unusable,
        content_hash=new_samples.content_hash,
        reference=reference,
        metadata=network.metadata if network else {},
    )


def _open(model: Path) -> tuple[Model | None, list[str]]:
    """The champion, or the note that this machine cannot run it."""
    try:
        return open_model(model), []
    except NotAvailableError as error:
        return None, [f"confidence was not measured: {error}"]


def _features(new_samples: NewSamples, network: Model | None, champion: Path) -> dict[str, Sides]:
    before, new = new_samples.reference, new_samples.new
    features = {
        name: (Feature(before.features[:, index], before.groups), Feature(new.features[:, index], new.groups))
        for index, name in enumerate(FEATURES)
    }
    if network and len(new):
        features[CONFIDENCE] = _tested(champion / IMAGES_TABLE), _confidence(network, new)
    return features


def _tested(table: Path) -> Feature:
    """The champion's confidence in each of its test images, which it was not trained on either."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = np.array([float(row["confidence"]) for row in rows], np.float64)
    return Feature(values, tuple(row["group"] for row in rows))


def _confidence(network: Model, images: Images) -> Feature:
    drawn = np.random.default_rng(0).permutation(len(images))[:CONFIDENCE_IMAGES]
    chosen = images.take(sorted(drawn.tolist()))
    values = [
        float(network.predict(read_image(path)[None])[1].mean())
        for path in progress(chosen.paths, len(chosen), CONFIDENCE)
    ]
    return Feature(np.array(values, np.float64), chosen.groups)


def _notes(new_samples: NewSamples, checks: Sequence[DriftCheck], limit: float) -> list[str]:
    """The limitations of the answer."""
    notes = []
    chance = max((check.threshold for check in checks if check.name in FEATURES), default=limit)
    if chance > limit:
        notes.append(f"with so few groups of images, a shift of a feature up to {chance:.2f} may be chance")
    if new_samples.relabelled is None:
        notes.append("near-copies among images without masks are not known: each image counts by itself")
    if new_samples.unusable:
        notes.append(f"files left out: {len(new_samples.unusable)}; {new_samples.unusable[0]}")
    if any(check.warrants for check in checks) and not checks[0].figure:
        notes.append("there is nothing new to train on yet: label some of the new images first")
    return notes


def _plot(features: Mapping[str, Sides], checks: Sequence[DriftCheck], answer: str) -> bytes:
    by_name = {check.name: check for check in checks}
    panels = []
    for name, (before, new) in features.items():
        check = by_name[name]
        verdict = "no new images"
        if check.figure is not None:
            verdict = f"shift {check.figure:.2f}, threshold {check.threshold:.2f}"
        panels.append(
            Panel(name, UNITS[name], before.values, before.weights, new.values, new.weights, verdict, check.warrants)
        )
    reasons = ", ".join(check.name for check in checks if check.warrants)
    return drift_plot(panels, f"Retraining warranted: {answer}" + (f" ({reasons})" if reasons else ""))
