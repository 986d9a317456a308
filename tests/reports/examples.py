"""Records of one candidate, by hand after real ones: better than the champion on the whole and worse in places."""

from typing import Any

from dbrnet import records
from dbrnet.records import Estimate, Topic, Unit

CLASSES = ("inclusion", "patches", "scratches")
CANDIDATE, CHAMPION = "0c24c2b6" + 56 * "a", "63136503" + 56 * "b"
PROVENANCE = records.Provenance(
    code_revision="b562988" + 33 * "0",
    versions={"python": "3.11.7", "torch": "2.13.0+cpu"},
    hardware=records.Hardware(cpu="AMD EPYC", cores=2, memory_gib=8.0, system="Linux x86_64", gpus=()),
)


def figure(value: float | None, half: float | None = 0.01, unit: Unit = "share") -> Estimate:
    if value is None or half is None:
        return Estimate(value=value, unit=unit)
    return Estimate(value=value, low=round(value - half, 4), high=round(value + half, 4), unit=unit)


# name, topic, figure, threshold; and the label with both in words, by hand as the gate writes them
PASSED: tuple[tuple[str, Topic, Estimate, float, str], ...] = (
    ("miou", "accuracy", figure(0.7568, 0.012), 0.7, "mIoU | 75.7 % (74.5 to 76.9) | at least | 70.0 %"),
    (
        "iou/inclusion",
        "accuracy",
        figure(0.5575, 0.02),
        0.5,
        "IoU of inclusion | 55.8 % (53.8 to 57.8) | at least | 50.0 %",
    ),
    (
        "defect_recall",
        "accuracy",
        figure(0.8123, 0.02),
        0.6,
        "defects found | 81.2 % (79.2 to 83.2) | at least | 60.0 %",
    ),
    (
        "miou_difference",
        "accuracy",
        figure(0.0057, 0.009, "points"),
        -0.01,
        "mIoU against the champion | +0.6 points (−0.3 to +1.5) | at least | −1.0 points",
    ),
    ("leak_rate", "data", figure(0.0, None), 0.0, "leaking test images | 0.0 % | at most | 0.0 %"),
    ("fps", "speed", figure(84.66, None, "fps"), 30.0, "frames per second | 84.7 | at least | 30.0"),
    ("p99_ms", "speed", figure(15.65, None, "ms"), 40.0, "p99, ms | 15.7 | at most | 40.0"),
    (
        "speed_ratio",
        "speed",
        figure(1.02, 0.04, "ratio"),
        0.9,
        "times as fast as the champion | 1.02 (0.98 to 1.06) | at least | 0.90",
    ),
    (
        "onnxruntime-cpu/logit_difference",
        "parity",
        figure(1.07e-05, None, "number"),
        20.0,
        "onnxruntime-cpu: largest logit difference | 1.07e−05 | at most | 20",
    ),
    (
        "onnxruntime-cpu/differing_pixels",
        "parity",
        figure(5.5e-08, None),
        0.02,
        "onnxruntime-cpu: pixels unlike PyTorch's | 5.5e−06 % | at most | 2.0 %",
    ),
    (
        "onnxruntime-cpu/miou_loss",
        "parity",
        figure(7.3e-08, None, "points"),
        0.01,
        "onnxruntime-cpu: mIoU lost | +7.3e−06 points | at most | +1.0 points",
    ),
    (
        "openvino-int8/logit_difference",
        "parity",
        figure(3.34, None, "number"),
        20.0,
        "openvino-int8: largest logit difference | 3.34 | at most | 20",
    ),
    (
        "openvino-int8/differing_pixels",
        "parity",
        figure(0.0049, None),
        0.02,
        "openvino-int8: pixels unlike PyTorch's | 0.5 % | at most | 2.0 %",
    ),
    (
        "openvino-int8/miou_loss",
        "parity",
        figure(0.0008, None, "points"),
        0.01,
        "openvino-int8: mIoU lost | +0.1 points | at most | +1.0 points",
    ),
)


def criteria() -> tuple[records.Criterion, ...]:
    """All of them passed."""
    passed = []
    for name, topic, measured, threshold, words in PASSED:
        label, own, direction, limit = words.split(" | ")
        fixed = {"name": name, "topic": topic, "figure": measured, "threshold": threshold, "verdict": "passed"}
        texts = {"figure_text": own, "threshold_text": limit, "text": f"{label} {own} is {direction} {limit}"}
        passed.append(records.Criterion.model_validate({**fixed, "label": label, "direction": direction, **texts}))
    return tuple(passed)


# name: the candidate's value and half its interval; the difference from the champion and half of its own
MEASURED: dict[str, tuple[float, float, float, float]] = {
    "miou": (0.7568, 0.012, 0.0057, 0.009),
    "miou_defects": (0.6896, 0.015, 0.0071, 0.011),
    "pixel_accuracy": (0.9628, 0.002, 0.0008, 0.001),
    "iou/background": (0.9586, 0.002, 0.0, 0.0),
    "iou/inclusion": (0.5575, 0.02, 0.0235, 0.014),
    "iou/patches": (0.8234, 0.011, 0.0021, 0.006),
    "iou/scratches": (0.6878, 0.018, -0.0174, 0.011),
    "defect_recall": (0.8123, 0.02, 0.0123, 0.013),
    "defect_precision": (0.7431, 0.021, 0.004, 0.013),
    "defect_recall/class/inclusion": (0.7012, 0.034, 0.031, 0.022),
    "defect_recall/class/patches": (0.9121, 0.013, 0.002, 0.009),
    "defect_recall/class/scratches": (0.8632, 0.024, -0.0265, 0.019),
    "defect_recall/size/small": (0.612, 0.04, 0.027, 0.024),
    "defect_recall/size/medium": (0.861, 0.02, 0.004, 0.012),
    "defect_recall/size/large": (0.957, 0.012, -0.003, 0.006),
    "false_positives": (0.1344, 0.03, -0.05, 0.02),
    "flagged_share": (0.09, 0.02, 0.021, 0.013),
    "boundary_f1": (0.7345, 0.012, 0.0034, 0.008),
    "boundary_f1/inclusion": (0.66, 0.02, 0.012, 0.011),
    "boundary_f1/patches": (0.77, 0.013, 0.001, 0.007),
    "boundary_f1/scratches": (0.78, 0.02, -0.009, 0.012),
}
COUNTED = "false_positives"  # no share, unlike all others
FIGURES = {
    name: figure(value, half, "count" if name == COUNTED else "share") for name, (value, half, *_) in MEASURED.items()
}
CHAMPION_FIGURES = {
    name: figure(round(value - change, 4), 0.012, FIGURES[name].unit)
    for name, (value, _, change, _) in MEASURED.items()
}
DIFFERENCE_FIGURES = {
    name: figure(change, half, "difference" if name == COUNTED else "points")
    for name, (*_, change, half) in MEASURED.items()
    if half
}


def change(record: Any, **fields: Any) -> Any:
    """The record with other values, checked again; a path such as split__leaks reaches into its parts."""
    for path, value in fields.items():
        first, _, rest = path.partition("__")
        inner = change(getattr(record, first), **{rest: value}) if rest else value
        record = type(record).model_validate(record.model_copy(update={first: inner}).__dict__)
    return record


def train(
    images: int = 4512, content: str = "f4f433fa", commit: str = "b562988", scratches: int = 990
) -> records.TrainRecord:
    counts = {"inclusion": 1450, "patches": 1302, "scratches": scratches}
    one = records.SplitCounts(images=images // 2, groups=images // 8, images_by_class=counts)
    return records.TrainRecord(
        dataset=records.DatasetFacts(
            name="neu-seg",
            title="NEU-Seg, hot-rolled steel strip",
            content_hash=content + 56 * "0",
            images=images,
            groups=images // 4,
            images_by_class=counts,
            dvc=records.DataRevision(dataset="8c1f2e.dir", source="data/raw/neu-seg"),
        ),
        split=records.SplitFacts(
            kind="groups",
            seed=0,
            leaks="no",
            leak_rate={"val": 0.0, "test": 0.0},
            leak_note="the published split leaks",
            sha256=64 * "c",
            counts={"train": one, "val": one, "test": one},
        ),
        provenance=change(PROVENANCE, code_revision=commit + 33 * "0"),
        training=records.TrainingFacts(
            seed=0,
            steps=16000,
            params={"seed": 0, "steps": 16000},
            start=records.StartFacts(source="generated defects", sha256=64 * "e"),
            chosen_step=16000,
            val_miou=0.74,
            zoom=1.5,
            left_out=2,
            seconds=630.0,
            device="cpu",
            processes=1,
            warnings=(),
        ),
        run_id="199cb4d0412947d1911359e3e9817625",
        missing_steps=(),
    )


def export(runtimes: tuple[str, ...] = ("onnxruntime-cpu", "openvino-int8")) -> records.ExportRecord:
    lineage = train()
    return records.ExportRecord(
        runtimes=runtimes,
        model_file="model.onnx",
        model_sha256=CANDIDATE,
        bytes=13_400_000,
        opset=17,
        batch_norms_left=0,
        int8=records.Int8Facts(
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


def champion_record() -> records.ChampionRecord:
    return records.ChampionRecord(
        model_name="dbrnet-neu-seg",
        version=5,
        sha256=CHAMPION,
        since="2026-09-02T07:12:00+00:00",
        lineage=train(4224, "17aa90c2", "5a746aa", 742),
    )


def no_champion() -> records.ChampionRecord:
    return records.ChampionRecord(model_name="dbrnet-neu-seg", version=None, sha256=None, since=None, lineage=None)


def scores(**changes: Any) -> records.Scores:
    iou = {"background": 0.9586, "inclusion": 0.5575, "patches": 0.8234, "scratches": 0.6878}
    values = {"miou": 0.7568, "miou_defects": 0.6896, "pixel_accuracy": 0.9628, "iou": iou, "absent": ()}
    return records.Scores(**{**values, "f1": iou, "precision": iou, "recall": iou, **changes})


def parity(precision: str = "fp32", **changes: Any) -> records.RuntimeParity:
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
    return records.RuntimeParity(precision=precision, **{**values, **changes})


def evaluation(disagreements: tuple[records.DisagreementFacts, ...] = ()) -> records.EvaluationRecord:
    lineage = train()
    defects = records.DefectTable(
        by_class={
            "inclusion": records.DefectTally(true=559, found=392, predicted=510, correct=380),
            "patches": records.DefectTally(true=512, found=467, predicted=520, correct=460),
            "scratches": records.DefectTally(true=314, found=271, predicted=330, correct=265),
        },
        by_size={
            "small": records.DefectTally(true=420, found=257),
            "medium": records.DefectTally(true=610, found=525),
            "large": records.DefectTally(true=355, found=340),
        },
    )
    compared = records.ComparedScores(
        runtime="onnxruntime-cpu",
        seen=0.124,
        scores=scores(),
        figures=CHAMPION_FIGURES,
        defects=defects,
        difference=DIFFERENCE_FIGURES,
    )
    return records.EvaluationRecord(
        runtime="onnxruntime-cpu",
        scores=scores(),
        figures=FIGURES,
        bootstrap=records.Bootstrap(resamples=10_000, confidence=0.95, groups=214, seed=0),
        match=records.MatchFacts(min_overlap=0.5, boundary_tolerance=2),
        defects=defects,
        confusion=((90, 1, 1, 1), (1, 9, 0, 0), (1, 0, 9, 0), (1, 0, 0, 9)),
        images=902,
        images_by_class={"background": 61, "inclusion": 300, "patches": 310, "scratches": 290},
        defect_free=61,
        false_positives=5,
        defective=841,
        missed=12,
        champion=records.ChampionScores(version=5, sha256=CHAMPION, compared=compared),
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


def speed(p50: float, precision: str = "fp32") -> records.RuntimeSpeed:
    latency = {"runs": 400, "mean_ms": p50, "p50_ms": p50, "p90_ms": p50 * 1.15, "p99_ms": p50 * 1.4}
    latency |= {"min_ms": p50 * 0.9, "max_ms": p50 * 2, "fps": 1000 / p50}
    return records.RuntimeSpeed(
        **latency,  # type: ignore[arg-type]
        precision=precision,
        device="cpu",
        threads=2,
        batch=1,
        end_to_end=records.LatencyFacts(**latency),  # type: ignore[arg-type]
        offline=None,
        roofline="not measured",
        warm_up=records.WarmUpFacts(runs=20, seconds=0.5, steady=True),
        block_spread=0.02,
    )


def benchmark() -> records.BenchmarkRecord:
    ratio = Estimate(value=1.02, low=0.98, high=1.06, unit="ratio")
    unreadable = dict.fromkeys(records.MachineState.model_fields, "not readable")
    state = records.MachineState.model_validate({**unreadable, "gpus": []})
    return records.BenchmarkRecord(
        runtimes={"pytorch-eager": speed(24.2), "onnxruntime-cpu": speed(11.8), "openvino-int8": speed(6.4, "int8")},
        not_available={},
        against=None,
        champion=records.ChampionSpeed(
            version=5,
            sha256=CHAMPION,
            runtime="onnxruntime-cpu",
            compared=records.ComparedSpeed(speed=speed(12.1), times_as_fast=ratio, pairs=24),
        ),
        size=(200, 200),
        batch=1,
        threads=2,
        images=12,
        complexity=records.ComplexityFacts(height=200, width=200, parameters=1, conv_macs=1, paper_flops=1),
        work=records.WorkFacts(macs=1, weights=1, activations=1),
        machine=records.MachineStates(start=state, end=state),
        noise=None,
        model_sha256=CANDIDATE,
        provenance=PROVENANCE,
    )
