"""Before a scheduled run: has enough changed since the champion was trained to train again?"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dbrnet.data.dataset import Dataset
from dbrnet.deployment.runtimes.base import Model
from dbrnet.deployment.runtimes.catalogue import open_model
from dbrnet.drift.appearance import FEATURES
from dbrnet.drift.arrivals import Arrivals, Pictures, find_arrivals, read_picture
from dbrnet.drift.checks import Check, Feature, check_classes, check_count, check_feature
from dbrnet.drift.distances import FALSE_ALARMS
from dbrnet.drift.plot import Panel, drift_plot
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, write_atomically, write_json
from dbrnet.params import DriftParams
from dbrnet.progress import progress
from dbrnet.provenance import origin
from dbrnet.registry.model_file import find_model_file

log = logging.getLogger(__name__)

CONFIDENCE = "confidence"
CONFIDENCE_PICTURES = 500  # of each side the network sees so many at most, drawn at random
UNITS = FEATURES | {CONFIDENCE: "the network's mean confidence, 0 to 1"}

Sides = tuple[Feature, Feature]  # the champion's pictures and the new ones


def drift(
    params: DriftParams, reference: Path, current: Path, *, model: str | None = None, out: Path
) -> None:
    """Answer whether retraining is warranted: yes or no, with each reason, its figure and its threshold.

    Pictures of CURRENT (an ingested dataset, or a plain folder of unlabelled pictures) that the champion's
    dataset REFERENCE does not hold are compared with it: how many are labelled, the balance of classes, light
    and texture and, with --model, the network's own confidence. Both answers are exit status 0. Writes
    drift.json and drift.png (each feature's distributions) under --out.
    """
    champion = Dataset.load(reference)
    network = _open(model, champion) if model else None
    arrivals = find_arrivals(champion, current)
    features = _features(arrivals, network)
    checks = [
        check_count(arrivals, params.min_new_images),
        check_classes(arrivals, champion.card.classes, params.max_class_shift),
        *(
            check_feature(name, UNITS[name], *sides, limit=params.max_image_drift, comparisons=len(features))
            for name, sides in features.items()
        ),
    ]
    answer = "yes" if any(check.warrants for check in checks) else "no"
    notes = _notes(arrivals, checks, params.max_image_drift, has_model=network is not None)
    with atomic_directory(out) as folder:
        write_json(
            folder / "drift.json",
            {
                "answer": answer,
                "reasons": [check.text for check in checks if check.warrants],
                "notes": notes,
                "checks": [asdict(check) for check in checks],
                "pictures": _counts(arrivals),
                "unusable": arrivals.unusable,
                "reference": {"name": champion.card.name, "content_hash": champion.card.content_hash},
                "current": {"path": str(current), "content_hash": arrivals.content_hash},
                "model": {"name": model, **network.metadata} if network else None,
                "params": params.model_dump() | {"false_alarms": FALSE_ALARMS},
                "origin": origin(),
            },
        )
        write_atomically(folder / "drift.png", _plot(features, checks, answer))
    log.info("is retraining warranted? %s", answer)
    for check in sorted(checks, key=lambda check: not check.warrants):
        log.info("  %s  %s", "YES" if check.warrants else "no ", check.text)
    for note in notes:
        log.info("note: %s", note)
    log.info("the distributions: %s", out / "drift.png")


def _open(model: str, champion: Dataset) -> Model:
    with tempfile.TemporaryDirectory() as scratch:
        network = open_model(find_model_file(model, Path(scratch)))
    trained_on, given = network.metadata.get("dataset_content_hash", "unknown"), champion.card.content_hash
    if trained_on != given:
        raise UserError(
            f"{model} was trained on other data (content {trained_on[:12]}) than {champion.root} holds "
            f"({given[:12]}); give the dataset that it was trained on"
        )
    return network


def _features(arrivals: Arrivals, network: Model | None) -> dict[str, Sides]:
    before, new = arrivals.reference, arrivals.new
    found = {
        name: (
            Feature(before.features[:, index], before.groups),
            Feature(new.features[:, index], new.groups),
        )
        for index, name in enumerate(FEATURES)
    }
    if network and len(new):
        found[CONFIDENCE] = (
            _confidence(network, before, "confidence, champion's pictures"),
            _confidence(network, new, "confidence, new pictures"),
        )
    return found


def _confidence(network: Model, pictures: Pictures, label: str) -> Feature:
    drawn = np.random.default_rng(0).permutation(len(pictures))[:CONFIDENCE_PICTURES]
    chosen = pictures.take(sorted(drawn.tolist()))
    values = [
        float(network.predict(read_picture(path)[None])[1].mean())
        for path in progress(chosen.paths, len(chosen), label)
    ]
    return Feature(np.array(values, np.float64), chosen.groups)


def _notes(arrivals: Arrivals, checks: Sequence[Check], limit: float, *, has_model: bool) -> list[str]:
    """What a reader must know to weigh the answer."""
    notes = []
    blunt = max((check.threshold for check in checks if check.name in FEATURES), default=limit)
    if blunt > limit:
        notes.append(f"with so few groups of pictures, a shift of a feature up to {blunt:.2f} may be chance")
    if not has_model:
        notes.append("confidence was not measured; give the champion with --model")
    if arrivals.relabelled is None:
        notes.append("nothing is known of near-copies among pictures without masks: each counts by itself")
    if arrivals.unusable:
        notes.append(f"files left out: {len(arrivals.unusable)}; {arrivals.unusable[0]}")
    if any(check.warrants for check in checks) and not checks[0].figure:
        notes.append("there is nothing new to train on yet: label some of the new pictures first")
    return notes


def _counts(arrivals: Arrivals) -> dict[str, int | None]:
    return {
        "reference": len(arrivals.reference),
        "reference_groups": len(set(arrivals.reference.groups)),
        "known": arrivals.known,
        "relabelled": arrivals.relabelled,
        "new": len(arrivals.new),
        "new_groups": len(set(arrivals.new.groups)),
    }


def _plot(features: Mapping[str, Sides], checks: Sequence[Check], answer: str) -> bytes:
    by_name = {check.name: check for check in checks}
    panels = []
    for name, (before, new) in features.items():
        check = by_name[name]
        verdict = "no new pictures"
        if check.figure is not None:
            verdict = f"shift {check.figure:.2f}, threshold {check.threshold:.2f}"
        panels.append(
            Panel(name, UNITS[name], before.values, before.weights, new.values, new.weights, verdict,
                  check.warrants)
        )  # fmt: skip
    reasons = ", ".join(check.name for check in checks if check.warrants)
    return drift_plot(panels, f"Retraining warranted: {answer}" + (f" ({reasons})" if reasons else ""))
