"""Records of one decision, by hand after real ones: a candidate better on the whole and worse in places."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbrnet.records import (
    BenchmarkRecord,
    Bootstrap,
    ChampionRecord,
    ChampionScores,
    ChampionSpeed,
    ComparedScores,
    ComparedSpeed,
    ComplexityFacts,
    Criterion,
    DataRevision,
    DatasetFacts,
    Decision,
    DefectTable,
    DefectTally,
    Direction,
    DisagreementFacts,
    Estimate,
    EvaluationRecord,
    ExportRecord,
    Hardware,
    Int8Facts,
    LatencyFacts,
    MachineState,
    MachineStates,
    MatchFacts,
    Promotion,
    Provenance,
    RuntimeParity,
    RuntimeSpeed,
    Scores,
    SplitCounts,
    SplitFacts,
    Topic,
    TrainingFacts,
    TrainRecord,
    Unit,
    WarmUpFacts,
    WorkFacts,
)
from dbrnet.registry.gate import Threshold
from dbrnet.registry.ledger_state import Entry, Event, KeyFigures, Outcome
from dbrnet.reports.decision_facts import Facts

CLASSES = ("inclusion", "patches", "scratches")
CAPTIONS = ("image", "ground truth", "champion", "candidate")
CANDIDATE, CHAMPION = "0c24c2b6" + 56 * "a", "63136503" + 56 * "b"
PROVENANCE = Provenance(
    code_revision="b562988" + 33 * "0",
    versions={"python": "3.11.7", "torch": "2.13.0+cpu"},
    hardware=Hardware(cpu="AMD EPYC", cores=2, memory_gib=8.0, system="Linux x86_64", gpus=()),
)


def figure(value: float | None, half: float | None = 0.01, unit: Unit = "share") -> Estimate:
    if value is None or half is None:
        return Estimate(value=value, unit=unit)
    return Estimate(value=value, low=round(value - half, 4), high=round(value + half, 4), unit=unit)


def criterion(
    name: str,
    label: str,
    topic: Topic,
    value: float | None,
    threshold: float,
    direction: Direction,
    unit: Unit,
    half: float | None = None,
) -> Criterion:
    limit = Threshold(name, label, topic, threshold, unit, direction, by_interval=half is not None)
    return limit.judge(figure(value, half, unit))


def criteria(changes: Mapping[str, Estimate] | None = None) -> tuple[Criterion, ...]:
    """All of them, some with another figure."""
    rows: list[tuple[str, str, Topic, float, float, Direction, Unit, float | None]] = [
        ("miou", "mIoU", "accuracy", 0.7568, 0.7, "at least", "share", 0.012),
        ("iou/inclusion", "IoU of inclusion", "accuracy", 0.5575, 0.5, "at least", "share", 0.02),
        ("defect_recall", "defects found", "accuracy", 0.8123, 0.6, "at least", "share", 0.02),
        ("miou_difference", "mIoU against the champion", "accuracy", 0.0057, -0.01, "at least", "points", 0.009),
        ("leak_rate", "leaking test images", "data", 0.0, 0.0, "at most", "share", None),
        ("fps", "frames per second", "speed", 84.66, 30.0, "at least", "fps", None),
        ("p99_ms", "p99, ms", "speed", 15.65, 40.0, "at most", "ms", None),
        ("speed_ratio", "times as fast as the champion", "speed", 1.02, 0.9, "at least", "ratio", 0.04),
    ]
    for runtime, values in (("onnxruntime-cpu", (1.07e-5, 5.5e-8, 7.3e-8)), ("openvino-int8", (3.34, 0.0049, 0.0008))):
        parity: list[tuple[str, str, float, Unit]] = [
            ("logit_difference", "largest logit difference", 20.0, "number"),
            ("differing_pixels", "pixels unlike PyTorch's", 0.02, "share"),
            ("miou_loss", "mIoU lost", 0.01, "points"),
        ]
        rows += [
            (f"{runtime}/{name}", f"{runtime}: {label}", "parity", value, limit, "at most", unit, None)
            for (name, label, limit, unit), value in zip(parity, values, strict=True)
        ]
    found = []
    for name, label, topic, value, limit, direction, unit, half in rows:
        threshold = Threshold(name, label, topic, limit, unit, direction, by_interval=half is not None)
        found.append(threshold.judge((changes or {}).get(name, figure(value, half, unit))))
    return tuple(found)


FIGURES = {
    "miou": figure(0.7568, 0.012),
    "miou_defects": figure(0.6896, 0.015),
    "pixel_accuracy": figure(0.9628, 0.002),
    "iou/background": figure(0.9586, 0.002),
    "iou/inclusion": figure(0.5575, 0.02),
    "iou/patches": figure(0.8234, 0.011),
    "iou/scratches": figure(0.6878, 0.018),
    "defect_recall": figure(0.8123, 0.02),
    "defect_precision": figure(0.7431, 0.021),
    "defect_recall/class/inclusion": figure(0.7012, 0.034),
    "defect_recall/class/patches": figure(0.9121, 0.013),
    "defect_recall/class/scratches": figure(0.8632, 0.024),
    "defect_recall/size/small": figure(0.612, 0.04),
    "defect_recall/size/medium": figure(0.861, 0.02),
    "defect_recall/size/large": figure(0.957, 0.012),
    "false_positives": figure(0.1344, 0.03, "count"),
    "flagged_share": figure(0.09, 0.02),
    "boundary_f1": figure(0.7345, 0.012),
    "boundary_f1/inclusion": figure(0.66, 0.02),
    "boundary_f1/patches": figure(0.77, 0.013),
    "boundary_f1/scratches": figure(0.78, 0.02),
}
DIFFERENCES = {
    "miou": (0.0057, 0.009),
    "miou_defects": (0.0071, 0.011),
    "pixel_accuracy": (0.0008, 0.001),
    "iou/inclusion": (0.0235, 0.014),
    "iou/patches": (0.0021, 0.006),
    "iou/scratches": (-0.0174, 0.011),
    "defect_recall": (0.0123, 0.013),
    "defect_precision": (0.004, 0.013),
    "defect_recall/class/inclusion": (0.031, 0.022),
    "defect_recall/class/patches": (0.002, 0.009),
    "defect_recall/class/scratches": (-0.0265, 0.019),
    "defect_recall/size/small": (0.027, 0.024),
    "defect_recall/size/medium": (0.004, 0.012),
    "defect_recall/size/large": (-0.003, 0.006),
    "false_positives": (-0.05, 0.02),
    "flagged_share": (0.021, 0.013),
    "boundary_f1": (0.0034, 0.008),
    "boundary_f1/inclusion": (0.012, 0.011),
    "boundary_f1/patches": (0.001, 0.007),
    "boundary_f1/scratches": (-0.009, 0.012),
}
CHAMPION_FIGURES = {
    name: figure(round((own.value or 0) - DIFFERENCES.get(name, (0, 0))[0], 4), 0.012, own.unit)
    for name, own in FIGURES.items()
}
DIFFERENCE_FIGURES = {
    name: figure(value, half, "points" if FIGURES[name].unit == "share" else "difference")
    for name, (value, half) in DIFFERENCES.items()
}


def change(record: Any, **fields: Any) -> Any:
    """The record with other values, checked again; a path such as split__leaks reaches into its parts."""
    for path, value in fields.items():
        first, _, rest = path.partition("__")
        inner = change(getattr(record, first), **{rest: value}) if rest else value
        record = type(record).model_validate(record.model_copy(update={first: inner}).__dict__)
    return record


def train(images: int = 4512, content: str = "f4f433fa", commit: str = "b562988", scratches: int = 990) -> TrainRecord:
    counts = {"inclusion": 1450, "patches": 1302, "scratches": scratches}
    one = SplitCounts(images=images // 2, groups=images // 8, images_by_class=counts)
    return TrainRecord(
        dataset=DatasetFacts(
            name="neu-seg",
            title="NEU-Seg, hot-rolled steel strip",
            content_hash=content + 56 * "0",
            images=images,
            groups=images // 4,
            images_by_class=counts,
            dvc=DataRevision(dataset="8c1f2e.dir", source="data/raw/neu-seg"),
        ),
        split=SplitFacts(
            kind="groups",
            seed=0,
            leaks="no",
            leak_rate={"val": 0.0, "test": 0.0},
            leak_note="the published split leaks",
            sha256=64 * "c",
            counts={"train": one, "val": one, "test": one},
        ),
        provenance=change(PROVENANCE, code_revision=commit + 33 * "0"),
        training=TrainingFacts(
            seed=0,
            epochs=16,
            params={"seed": 0, "epochs": 16},
            best_epoch=13,
            best_val_miou=0.74,
            seconds=630.0,
            device="cpu",
            processes=1,
        ),
        run_id="199cb4d0412947d1911359e3e9817625",
        missing_epochs=(),
    )


def export(runtimes: tuple[str, ...] = ("onnxruntime-cpu", "openvino-int8")) -> ExportRecord:
    lineage = train()
    return ExportRecord(
        runtimes=runtimes,
        model_file="model.onnx",
        model_sha256=CANDIDATE,
        bytes=13_400_000,
        opset=17,
        batch_norms_left=0,
        int8=Int8Facts(
            miou=0.76,
            loss_of_all=0.02,
            loss=0.0008,
            kept=("stem.weight",),
            convolutions=62,
            max_loss=0.005,
            sha256=64 * "d",
        ),
        no_int8=None,
        dataset=lineage.dataset,
        split=lineage.split,
        provenance=PROVENANCE,
    )


def champion_record() -> ChampionRecord:
    return ChampionRecord(
        model_name="dbrnet-neu-seg",
        version=5,
        sha256=CHAMPION,
        since="2026-09-02T07:12:00+00:00",
        lineage=train(4224, "17aa90c2", "5a746aa", 742),
    )


def no_champion() -> ChampionRecord:
    return ChampionRecord(model_name="dbrnet-neu-seg", version=None, sha256=None, since=None, lineage=None)


def scores(**changes: Any) -> Scores:
    iou = {"background": 0.9586, "inclusion": 0.5575, "patches": 0.8234, "scratches": 0.6878}
    values = {"miou": 0.7568, "miou_defects": 0.6896, "pixel_accuracy": 0.9628, "iou": iou, "absent": ()}
    return Scores(**{**values, "f1": iou, "precision": iou, "recall": iou, **changes})


def parity(precision: str = "fp32", **changes: Any) -> RuntimeParity:
    values = {
        "images": 902,
        "miou": 0.7568,
        "miou_defects": 0.6896,
        "iou": scores().iou,
        "miou_change": 0.0,
        "iou_change": dict.fromkeys(scores().iou, 0.0),
        "max_logit_difference": 1e-4,
        "differing_pixels": 0.0,
    }
    return RuntimeParity(precision=precision, **{**values, **changes})


def evaluation(disagreements: tuple[DisagreementFacts, ...] = ()) -> EvaluationRecord:
    lineage = train()
    defects = DefectTable(
        by_class={
            "inclusion": DefectTally(true=559, found=392, predicted=510, correct=380),
            "patches": DefectTally(true=512, found=467, predicted=520, correct=460),
            "scratches": DefectTally(true=314, found=271, predicted=330, correct=265),
        },
        by_size={
            "small": DefectTally(true=420, found=257),
            "medium": DefectTally(true=610, found=525),
            "large": DefectTally(true=355, found=340),
        },
    )
    compared = ComparedScores(
        runtime="onnxruntime-cpu",
        seen=0.124,
        scores=scores(),
        figures=CHAMPION_FIGURES,
        defects=defects,
        difference=DIFFERENCE_FIGURES,
    )
    return EvaluationRecord(
        runtime="onnxruntime-cpu",
        scores=scores(),
        figures=FIGURES,
        bootstrap=Bootstrap(resamples=10_000, confidence=0.95, groups=214, seed=0),
        match=MatchFacts(min_overlap=0.5, boundary_tolerance=2),
        defects=defects,
        confusion=((90, 1, 1, 1), (1, 9, 0, 0), (1, 0, 9, 0), (1, 0, 0, 9)),
        images=902,
        images_by_class={"background": 61, "inclusion": 300, "patches": 310, "scratches": 290},
        defect_free=61,
        false_positives=5,
        defective=841,
        missed=12,
        champion=ChampionScores(version=5, sha256=CHAMPION, compared=compared),
        disagreements=disagreements,
        colors={"inclusion": (230, 159, 0), "patches": (86, 180, 233), "scratches": (213, 94, 0)},
        runtimes={"onnxruntime-cpu": parity(), "openvino-int8": parity("int8", max_logit_difference=3.0)},
        not_available={},
        model_sha256=CANDIDATE,
        dataset=lineage.dataset,
        split=lineage.split,
        nn_baseline=scores(miou=0.3855),
        provenance=PROVENANCE,
    )


def speed(p50: float, precision: str = "fp32") -> RuntimeSpeed:
    latency = {"runs": 400, "mean_ms": p50, "p50_ms": p50, "p90_ms": p50 * 1.15, "p99_ms": p50 * 1.4}
    latency |= {"min_ms": p50 * 0.9, "max_ms": p50 * 2, "fps": 1000 / p50}
    return RuntimeSpeed(
        **latency,  # type: ignore[arg-type]
        precision=precision,
        device="cpu",
        threads=2,
        batch=1,
        end_to_end=LatencyFacts(**latency),  # type: ignore[arg-type]
        offline=None,
        roofline="not measured",
        warm_up=WarmUpFacts(runs=20, seconds=0.5, steady=True),
        block_spread=0.02,
    )


def benchmark() -> BenchmarkRecord:
    ratio = Estimate(value=1.02, low=0.98, high=1.06, unit="ratio")
    state = MachineState(
        governor="not readable",
        mhz=[2400],
        throttled=0,
        load_average=[0.1, 0.1, 0.1],
        stolen_seconds=0.0,
        cpu_quota="none",
        gpus=[],
    )
    return BenchmarkRecord(
        runtimes={"pytorch-eager": speed(24.2), "onnxruntime-cpu": speed(11.8), "openvino-int8": speed(6.4, "int8")},
        not_available={},
        against=None,
        champion=ChampionSpeed(
            version=5,
            sha256=CHAMPION,
            runtime="onnxruntime-cpu",
            compared=ComparedSpeed(speed=speed(12.1), times_as_fast=ratio, pairs=24),
        ),
        size=(200, 200),
        batch=1,
        threads=2,
        images=12,
        complexity=ComplexityFacts(height=200, width=200, parameters=1, conv_macs=1, paper_flops=1),
        work=WorkFacts(macs=1, weights=1, activations=1),
        machine=MachineStates(start=state, end=state),
        noise=None,
        model_sha256=CANDIDATE,
        provenance=PROVENANCE,
    )


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
        DisagreementFacts(
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
        decision=Decision(answer="promoted", mode="automatic", reasons=(), criteria=criteria()),
        promotion=Promotion(
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


def rejected(facts: Facts) -> Facts:
    """The same candidate, leaking, behind the champion, with a figure that was not measured."""
    judged = criteria(
        {
            "miou_difference": Estimate(value=-0.021, low=-0.034, high=-0.0103, unit="points"),
            "leak_rate": figure(0.964, None),
            "p99_ms": figure(None, None, "ms"),
            "speed_ratio": Estimate(value=0.91, low=0.88, high=0.95, unit="ratio"),
        }
    )
    reasons = tuple(one.text for one in judged if one.verdict in ("failed", "not measured"))
    return replace(
        facts,
        decision=Decision(answer="rejected", mode="automatic", reasons=reasons, criteria=judged),
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
    scored = ChampionScores(version=5, sha256=CHAMPION, not_compared="its classes are others: crack")
    timed = ChampionSpeed(version=5, sha256=CHAMPION, not_compared="it cannot run in onnxruntime-cpu")
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
        dataset__dvc=DataRevision(),
    )
    facts.durations.write_text("runtime,block,predict_ms,end_to_end_ms\n")
    untimed = ChampionSpeed(version=5, sha256=CHAMPION, not_compared="no runtime")
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
