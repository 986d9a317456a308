"""Decisions on the candidate of `examples`, each with all that its page shows, and a ledger's year."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbrnet import records
from dbrnet.records import Estimate
from dbrnet.registry.ledger_state import Entry, Event, KeyFigures, Outcome
from dbrnet.reports.decision_facts import Facts
from tests.reports.examples import (
    CHAMPION,
    FIGURES,
    benchmark,
    champion_record,
    change,
    criteria,
    evaluation,
    figure,
    no_champion,
    scores,
    train,
)

CAPTIONS = ("image", "ground truth", "champion", "candidate")


def write_panels(folder: Path, id_: str, size: tuple[int, int]) -> dict[str, str]:
    """Four small images [height, width] such as evaluate draws, and their paths below `folder`."""
    rng = np.random.default_rng(abs(hash(id_)) % 1000)
    paths = {}
    for caption in CAPTIONS:
        path = f"disagreements/{id_}-{caption.replace(' ', '-')}.jpg"
        (folder / path).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / path), rng.integers(60, 190, (*size, 3)).astype(np.uint8))
        paths[caption] = path
    return paths


def write_durations(path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["runtime,block,predict_ms,end_to_end_ms"]
    for name, middle in (("onnxruntime-cpu", 11.8), ("onnxruntime-cpu (champion)", 12.1), ("openvino-int8", 6.4)):
        times = middle + rng.gamma(1.5, 0.5, 400)
        lines += [f"{name},{place // 20},{time:.4f},{time + 1:.4f}" for place, time in enumerate(times)]
    path.write_text("\n".join(lines) + "\n")


def facts(folder: Path) -> Facts:
    """Promoted in place of version 5, with two regressions and an improvement in the order of evaluate."""
    disagreements = tuple(
        records.DisagreementFacts(
            id=id_,
            group=id_,
            change=change_,
            candidate_iou=own,
            champion_iou=other,
            panels=write_panels(folder, id_, (64, 64)),
        )
        for id_, change_, own, other in (
            ("test-000437", -0.1312, 0.21, 0.68),
            ("training-003831", -0.0471, 0.4, 0.52),
            ("training-001467", 0.0934, 0.83, None),
        )
    )
    write_durations(folder / "durations.csv")
    return Facts(
        decision=records.Decision(answer="promoted", mode="automatic", reasons=(), criteria=criteria()),
        promotion=records.Promotion(
            answer="promoted",
            model_name="dbrnet-neu-seg",
            version=7,
            champion_before=5,
            champion_after=7,
            champion_now=7,
            challenger=None,
            reasons=(),
            entry=12,
            time="2026-11-23T08:05:11+00:00",
            by="ann",
        ),
        evaluation=evaluation(disagreements),
        benchmark=benchmark(),
        train=train(),
        champion=champion_record(),
        settings={
            "mode": "automatic",
            "min_miou": 0.7,
            "max_false_positives": None,
            "parity": {"fp32": {"max_miou_loss": 0.0005}},
        },
        evaluated=folder,
        durations=folder / "durations.csv",
        links={"MLflow run": "199cb4d0412947d1911359e3e9817625", "Model": "models:/dbrnet-neu-seg/7"},
    )


UNMET: dict[str, dict[str, Any]] = {  # of a rejected candidate, by hand as the gate writes them
    "miou_difference": {
        "figure": Estimate(value=-0.021, low=-0.034, high=-0.0103, unit="points"),
        "verdict": "failed",
        "figure_text": "−2.10 points (−3.40 to −1.03)",
        "threshold_text": "−1.00 points",
        "text": "mIoU against the champion −2.10 points (−3.40 to −1.03) is below −1.00 points",
    },
    "leak_rate": {
        "figure": figure(0.964, None),
        "verdict": "failed",
        "figure_text": "96.4 %",
        "text": "leaking test images 96.4 % is above 0.0 %",
    },
    "p99_ms": {
        "figure": figure(None, None, "ms"),
        "verdict": "not measured",
        "figure_text": "–",
        "text": "p99, ms: not measured (at most 40.0 is required)",
    },
    "speed_ratio": {
        "figure": Estimate(value=0.91, low=0.88, high=0.95, unit="ratio"),
        "verdict": "inconclusive",
        "figure_text": "0.91 (0.88 to 0.95)",
        "text": "times as fast as the champion 0.91 (0.88 to 0.95) cannot be told from 0.90",
    },
}


def rejected(facts: Facts) -> Facts:
    """The same candidate, leaking, behind the champion, with a figure that was not measured."""
    judged = [change(one, **UNMET.get(one.name, {})) for one in criteria()]
    reasons = tuple(one.text for one in judged if one.verdict in ("failed", "not measured"))
    return replace(
        facts,
        decision=records.Decision(answer="rejected", mode="automatic", reasons=reasons, criteria=tuple(judged)),
        promotion=change(facts.promotion, answer="rejected", champion_after=5, champion_now=5, reasons=reasons),
        train=change(facts.train, split__leaks="yes", split__leak_rate={"val": 0.9, "test": 0.964}),
    )


def first(facts: Facts) -> Facts:
    """There was no champion."""
    return replace(
        facts,
        evaluation=change(facts.evaluation, champion=None, disagreements=()),
        benchmark=change(facts.benchmark, champion=None),
        champion=no_champion(),
        promotion=change(facts.promotion, version=1, champion_before=None, champion_after=1, champion_now=1),
    )


def not_compared(facts: Facts) -> Facts:
    """The champion has other classes, and its lineage is not known."""
    scored = records.ChampionScores(version=5, sha256=CHAMPION, not_compared="its classes are others: crack")
    timed = records.ChampionSpeed(version=5, sha256=CHAMPION, not_compared="it cannot run in onnxruntime-cpu")
    return replace(
        facts,
        evaluation=change(facts.evaluation, champion=scored, disagreements=()),
        benchmark=change(facts.benchmark, champion=timed),
        champion=change(facts.champion, lineage=None, since=None),
    )


def barely_measured(facts: Facts) -> Facts:
    """Every value that may be missing is."""
    nothing = {name: Estimate(value=None, unit=own.unit) for name, own in FIGURES.items()}
    compared = change(facts.compared, figures=nothing, difference=nothing, seen=None)
    disagreements = tuple(
        change(image, candidate_iou=None, champion_iou=None) for image in facts.evaluation.disagreements
    )
    judged = tuple(
        change(one, figure=Estimate(value=None, unit=one.figure.unit), verdict="not measured") for one in criteria()
    )
    lineage = change(
        facts.train,
        split__leaks="yes",
        split__leak_rate={},
        split__leak_note="",
        provenance__code_revision=None,
        dataset__dvc=records.DataRevision(),
    )
    facts.durations.write_text("runtime,block,predict_ms,end_to_end_ms\n")
    untimed = records.ChampionSpeed(version=5, sha256=CHAMPION, not_compared="no runtime")
    return replace(
        facts,
        evaluation=change(
            facts.evaluation,
            figures=nothing,
            champion__compared=compared,
            disagreements=disagreements,
            scores__iou=dict.fromkeys(scores().iou),
            nn_baseline=None,
            defect_free=0,
        ),
        decision=change(facts.decision, criteria=judged),
        benchmark=change(facts.benchmark, runtimes={}, champion=untimed),
        train=lineage,
        champion=change(facts.champion, lineage=lineage),
    )


HOSTILE = "<script>alert(1)</script>|`x`\n# [y](http://127.0.0.1:9/z)"


def hostile(facts: Facts) -> Facts:
    """Names that others chose, chosen to do harm."""
    image, *others = facts.evaluation.disagreements
    lineage = change(facts.train, dataset__title=HOSTILE, dataset__images_by_class={HOSTILE: 3})
    judged = tuple(change(one, label=HOSTILE, text=HOSTILE, verdict="failed") for one in criteria())
    return replace(
        facts,
        evaluation=change(
            facts.evaluation,
            disagreements=(change(image, id=HOSTILE, group=HOSTILE), *others),
            scores__iou={**scores().iou, HOSTILE: 0.5},
        ),
        decision=change(facts.decision, criteria=judged),
        promotion=change(
            facts.promotion, answer="rejected", champion_after=5, model_name=HOSTILE, reasons=(HOSTILE,), by=HOSTILE
        ),
        train=lineage,
        champion=change(facts.champion, lineage=lineage),
        links={HOSTILE: HOSTILE},
    )


CASES: list[Callable[[Facts], Facts]] = [rejected, first, not_compared, barely_measured, hostile]

PASSED, BEHIND = "every criterion passed", "mIoU minus that of the champion −3.1 points is below −1.0 points"
YEAR: list[tuple[str, Outcome, int, str, str, int | None, tuple[float | None, ...]]] = [
    ("2025-12-08T06:10", "promoted", 1, PASSED, "pipeline", 1, (0.712, None, 71.2)),
    ("2026-01-05T06:12", "rejected", 2, BEHIND, "pipeline", 1, (0.68, -0.031, 71.0)),
    ("2026-02-02T06:09", "promoted", 3, PASSED, "pipeline", 3, (0.728, 0.014, 70.8)),
    ("2026-03-02T06:15", "rejected", 4, "frames per second 21.4 is below 30.0", "pipeline", 3, (0.744, 0.018, 21.4)),
    ("2026-03-30T06:11", "promoted", 5, PASSED, "pipeline", 5, (0.739, 0.011, 84.1)),
    ("2026-04-09T14:42", "rolled back", 3, "version 5 misses scratches on the new coils of line 2", "ann", 3, ()),
    ("2026-05-04T06:10", "rejected", 6, "leak rate 96.4 % is above 0.0 %", "pipeline", 3, (0.861, 0.132, 84.0)),
    ("2026-06-01T06:13", "needs review", 7, "too close to tell", "pipeline", 3, (0.731, 0.002, 84.4)),
    ("2026-06-02T09:05", "approved", 7, "finds the scratches of line 2 that version 3 misses", "ben", 7, ()),
    ("2026-07-06T06:10", "promoted", 8, PASSED, "pipeline", 8, (0.748, 0.012, 86.0)),
    ("2026-07-06T06:11", "superseded", 9, "version 8 had become champion", "pipeline", 8, (0.743, 0.009, 85.0)),
    ("2026-08-03T06:08", "rejected", 10, "defect recall: not measured", "pipeline", 8, ()),
    ("2026-09-07T06:10", "needs review", 11, "promote.mode has a person decide", "pipeline", 8, (0.75, 0.001, 86.1)),
    ("2026-09-08T10:20", "revoked", 11, "the labels of September's batch are being redone", "ann", 8, ()),
    ("2026-10-05T06:12", "promoted", 12, PASSED, "pipeline", 12, (0.757, 0.008, 85.9)),
]


def year() -> list[Event]:
    """Twelve retrainings and people's decisions between them, as the ledger replays them."""
    events: list[Event] = []
    for number, (time, outcome, version, why, by, after, figures) in enumerate(YEAR, 1):
        entry = Entry(
            id=str(number),
            kind="decision",
            version=version,
            by=by,
            reasons=(why,),
            figures=KeyFigures(*figures),
            number=number,
            time=datetime.fromisoformat(f"{time}:00+00:00"),
        )
        before = events[-1].champion_after if events else None
        events.append(Event(entry, outcome, why, before, after, None))
    return events
