"""A decision's facts, by hand after real ones: a candidate better on the whole and worse in places."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbrnet.reports.decision_facts import Facts

CLASSES = ("inclusion", "patches", "scratches")
CAPTIONS = ("image", "ground truth", "champion", "candidate")
CANDIDATE, CHAMPION = "0c24c2b6" + 56 * "a", "63136503" + 56 * "b"


def figure(value: float | None, half: float | None = 0.01) -> dict[str, float | None]:
    if value is None or half is None:
        return {"value": value, "low": None, "high": None}
    return {"value": value, "low": round(value - half, 4), "high": round(value + half, 4)}


def criterion(
    name: str,
    label: str,
    topic: str,
    value: float | None,
    threshold: float,
    direction: str,
    verdict: str,
    half: float | None = None,
) -> dict[str, Any]:
    found = figure(value, half)
    return {
        "name": name,
        "label": label,
        "topic": topic,
        "figure": value,
        "low": found["low"],
        "high": found["high"],
        "threshold": threshold,
        "direction": direction,
        "verdict": verdict,
        "text": f"{label} {value}",
    }


CRITERIA = [
    criterion("miou", "mIoU", "accuracy", 0.7568, 0.7, "at least", "passed", 0.012),
    criterion("iou/inclusion", "IoU of inclusion", "accuracy", 0.5575, 0.5, "at least", "passed", 0.02),
    criterion("defect_recall", "defects found", "accuracy", 0.8123, 0.6, "at least", "passed", 0.02),
    criterion("miou_difference", "mIoU against the champion", "accuracy", 0.0057, -0.01, "at least", "passed", 0.009),
    criterion("leak_rate", "leaking test images", "data", 0.0, 0.0, "at most", "passed"),
    criterion("fps", "frames per second", "speed", 84.66, 30.0, "at least", "passed"),
    criterion("p99_ms", "p99, ms", "speed", 15.65, 40.0, "at most", "passed"),
    criterion("speed_ratio", "times as fast as the champion", "speed", 1.02, 0.9, "at least", "passed", 0.04),
    *(
        criterion(f"{runtime}/{name}", f"{runtime}: {label}", "parity", value, threshold, "at most", "passed")
        for runtime, values in (
            ("onnxruntime-cpu", (1.07e-5, 5.5e-8, 7.3e-8)),
            ("openvino-int8", (3.34, 0.0049, 0.0008)),
        )
        for (name, label, threshold), value in zip(
            (
                ("logit_difference", "largest logit difference", 20.0),
                ("differing_pixels", "pixels unlike PyTorch's", 0.02),
                ("miou_loss", "mIoU lost", 0.01),
            ),
            values,
            strict=True,
        )
    ),
]

CANDIDATE_FIGURES = {
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
    "false_positives": figure(0.1344, 0.03),
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


def lineage(images: int, content: str, commit: str | None, scratches: int) -> dict[str, Any]:
    counts = {"inclusion": 1450, "patches": 1302, "scratches": scratches}
    split_name = {"images": images // 2, "groups": images // 8, "images_by_class": counts}
    return {
        "dataset": {
            "name": "neu-seg",
            "title": "NEU-Seg, hot-rolled steel strip",
            "content_hash": content,
            "dvc": {"dataset": "8c1f2e.dir", "source": "data/raw/neu-seg"},
            "images": images,
            "groups": images // 4,
            "images_by_class": counts,
        },
        "split": {
            "kind": "groups",
            "seed": 0,
            "leaks": "no",
            "leak_rate": {"val": 0.0, "test": 0.0},
            "leak_note": "the published split leaks",
            "counts": {"train": split_name, "val": split_name, "test": split_name},
        },
        "provenance": {
            "code_revision": commit,
            "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
            "hardware": {"cpu": "AMD EPYC", "cores": 2, "gpus": []},
        },
        "training": {"params": {"seed": 0, "epochs": 16}, "best_epoch": 13, "device": "cpu"},
        "run_id": "199cb4d0412947d1911359e3e9817625",
    }


def metrics(disagreements: list[dict[str, Any]]) -> dict[str, Any]:
    champion = {
        name: figure(round((found["value"] or 0) - DIFFERENCES.get(name, (0, 0))[0], 4), 0.012)
        for name, found in CANDIDATE_FIGURES.items()
    }
    return {
        "runtime": "onnxruntime-cpu",
        "scores": {
            "miou": 0.7568,
            "iou": {"background": 0.9586, "inclusion": 0.5575, "patches": 0.8234, "scratches": 0.6878},
            "absent": [],
        },
        "figures": deepcopy(CANDIDATE_FIGURES),
        "bootstrap": {"resamples": 10000, "confidence": 0.95, "groups": 214, "seed": 0},
        "defects": {
            "by_class": {
                "inclusion": {"true": 559, "found": 392, "predicted": 510, "correct": 380},
                "patches": {"true": 512, "found": 467, "predicted": 520, "correct": 460},
                "scratches": {"true": 314, "found": 271, "predicted": 330, "correct": 265},
            },
            "by_size": {
                "small": {"true": 420, "found": 257},
                "medium": {"true": 610, "found": 525},
                "large": {"true": 355, "found": 340},
            },
        },
        "champion": {
            "version": 5,
            "sha256": CHAMPION,
            "runtime": "onnxruntime-cpu",
            "scores": {},
            "figures": champion,
            "defects": {},
            "difference": {name: figure(*pair) for name, pair in DIFFERENCES.items()},
            "seen": 0.124,
        },
        "disagreements": disagreements,
        "colors": {"inclusion": [230, 159, 0], "patches": [86, 180, 233], "scratches": [213, 94, 0]},
        "not_available": {},
        "images": 902,
        "defect_free": 61,
        "model_sha256": CANDIDATE,
        "nn_baseline": {"miou": 0.3855},
    }


def speed(p50: float) -> dict[str, Any]:
    return {"p50_ms": p50, "p90_ms": p50 * 1.15, "p99_ms": p50 * 1.4, "fps": 1000 / p50, "precision": "fp32"}


def benchmark() -> dict[str, Any]:
    return {
        "runtimes": {"pytorch-eager": speed(24.2), "onnxruntime-cpu": speed(11.8), "openvino-int8": speed(6.4)},
        "champion": {
            "version": 5,
            "runtime": "onnxruntime-cpu",
            **speed(12.1),
            "times_as_fast": {"median": 1.02, "low": 0.98, "high": 1.06, "pairs": 24},
        },
        "size": [200, 200],
        "threads": 2,
        "noise": None,
        "provenance": {"hardware": {"cpu": "AMD EPYC", "cores": 2, "gpus": []}},
    }


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
    disagreements = [
        {
            "id": id_,
            "group": id_,
            "change": change,
            "candidate_iou": own,
            "champion_iou": other,
            "panels": write_panels(folder, id_, (64, 64)),
        }
        for id_, change, own, other in (
            ("test-000437", -0.1312, 0.21, 0.68),
            ("training-003831", -0.0471, 0.4, 0.52),
            ("training-001467", 0.0934, 0.83, None),
        )
    ]
    write_durations(folder / "durations.csv")
    return Facts(
        decision={"answer": "promoted", "mode": "automatic", "reasons": [], "criteria": deepcopy(CRITERIA)},
        outcome={
            "answer": "promoted",
            "model_name": "dbrnet-neu-seg",
            "version": 7,
            "champion_before": 5,
            "champion_after": 7,
            "champion_now": 7,
            "challenger": None,
            "reasons": [],
            "entry": 12,
        },
        metrics=metrics(disagreements),
        benchmark=benchmark(),
        lineage=lineage(4512, "f4f433fa" + 56 * "0", "b562988" + 33 * "0", 990),
        champion={
            "model_name": "dbrnet-neu-seg",
            "version": 5,
            "sha256": CHAMPION,
            "since": "2026-09-02T07:12:00+00:00",
            "lineage": lineage(4224, "17aa90c2" + 56 * "0", "5a746aa" + 33 * "0", 742),
        },
        params={
            "mode": "automatic",
            "min_miou": 0.7,
            "max_false_positives": None,
            "parity": {"fp32": {"max_miou_loss": 0.0005}},
        },
        evaluated=folder,
        durations=folder / "durations.csv",
        links={"MLflow run": "199cb4d0412947d1911359e3e9817625", "Model": "models:/dbrnet-neu-seg/7"},
        time="2026-11-23T08:05:11+00:00",
        by="ann",
    )


def year() -> list[dict[str, Any]]:
    """Twelve retrainings and what people did between them, as the ledger replays them."""
    promoted, rejected = "every criterion passed", "mIoU minus that of the champion -0.031 is below -0.01"
    story: list[tuple[str, str, int, str, str, int | None, dict[str, float]]] = [
        ("2025-12-08T06:10", "promoted", 1, promoted, "pipeline", 1, {"miou": 0.712, "fps": 71.2}),
        ("2026-01-05T06:12", "rejected", 2, rejected, "pipeline", 1, {"miou": 0.68, "fps": 71.0, "difference": -0.031}),
        ("2026-02-02T06:09", "promoted", 3, promoted, "pipeline", 3, {"miou": 0.728, "fps": 70.8, "difference": 0.014}),
        (
            "2026-03-02T06:15",
            "rejected",
            4,
            "frames per second 21.4 is below 30",
            "pipeline",
            3,
            {"miou": 0.744, "fps": 21.4, "difference": 0.018},
        ),
        ("2026-03-30T06:11", "promoted", 5, promoted, "pipeline", 5, {"miou": 0.739, "fps": 84.1, "difference": 0.011}),
        ("2026-04-09T14:42", "rolled back", 3, "version 5 misses scratches on the new coils of line 2", "ann", 3, {}),
        (
            "2026-05-04T06:10",
            "rejected",
            6,
            "share of val or test images that training shows 0.964 is above 0",
            "pipeline",
            3,
            {"miou": 0.861, "fps": 84.0, "difference": 0.132},
        ),
        (
            "2026-06-01T06:13",
            "needs review",
            7,
            "mIoU minus that of the champion 0.002 cannot be told from -0.01",
            "pipeline",
            3,
            {"miou": 0.731, "fps": 84.4, "difference": 0.002},
        ),
        ("2026-06-02T09:05", "approved", 7, "finds the scratches of line 2 that version 3 misses", "ben", 7, {}),
        ("2026-07-06T06:10", "promoted", 8, promoted, "pipeline", 8, {"miou": 0.748, "fps": 86.0, "difference": 0.012}),
        (
            "2026-07-06T06:11",
            "superseded",
            9,
            "version 8 had become champion since the comparison with version 7",
            "pipeline",
            8,
            {"miou": 0.743, "fps": 85.0, "difference": 0.009},
        ),
        (
            "2026-08-03T06:08",
            "rejected",
            10,
            "defect recall: not measured (at least 0.6 is required)",
            "pipeline",
            8,
            {},
        ),
        (
            "2026-09-07T06:10",
            "needs review",
            11,
            "every criterion passed, and promote.mode has a person decide",
            "pipeline",
            8,
            {"miou": 0.75, "fps": 86.1, "difference": 0.001},
        ),
        ("2026-09-08T10:20", "revoked", 11, "the labels of September's batch are being redone", "ann", 8, {}),
        (
            "2026-10-05T06:12",
            "promoted",
            12,
            promoted,
            "pipeline",
            12,
            {"miou": 0.757, "fps": 85.9, "difference": 0.008},
        ),
    ]
    rows: list[dict[str, Any]] = []
    for number, (time, outcome, version, why, by, after, figures) in enumerate(story, 1):
        before = rows[-1]["champion_after"] if rows else None
        rows.append(
            {
                "number": number,
                "time": f"{time}:00+00:00",
                "outcome": outcome,
                "version": version,
                "why": why,
                "by": by,
                "champion_before": before,
                "champion_after": after,
                "figures": figures,
            }
        )
    return rows


def rejected(facts: Facts) -> Facts:
    """The same candidate, leaking, behind the champion, with a figure that was not measured."""
    criteria = deepcopy(CRITERIA)
    by_name = {one["name"]: one for one in criteria}
    by_name["miou_difference"].update(figure=-0.021, low=-0.034, high=-0.0103, verdict="failed", text="mIoU fell")
    by_name["leak_rate"].update(figure=0.964, verdict="failed", text="test images leak")
    by_name["p99_ms"].update(figure=None, verdict="not measured", text="p99: not measured")
    by_name["speed_ratio"].update(figure=0.91, low=0.88, high=0.95, verdict="inconclusive", text="speed unclear")
    reasons = [one["text"] for one in criteria if one["verdict"] in ("failed", "not measured")]
    leaking = deepcopy(dict(facts.lineage))
    leaking["split"] |= {"leaks": "yes", "leak_rate": {"val": 0.9, "test": 0.964}}
    return replace(
        facts,
        decision={"answer": "rejected", "mode": "automatic", "reasons": reasons, "criteria": criteria},
        outcome={**facts.outcome, "answer": "rejected", "champion_after": 5, "champion_now": 5, "reasons": reasons},
        lineage=leaking,
    )


def first(facts: Facts) -> Facts:
    """There was no champion."""
    return replace(
        facts,
        metrics={**facts.metrics, "champion": None, "disagreements": []},
        benchmark={**facts.benchmark, "champion": None},
        champion={"model_name": "dbrnet-neu-seg", "version": None, "sha256": None, "since": None, "lineage": None},
        outcome={**facts.outcome, "version": 1, "champion_before": None, "champion_after": 1, "champion_now": 1},
    )


def not_compared(facts: Facts) -> Facts:
    """The champion has other classes, and its lineage is not known."""
    why = {"version": 5, "sha256": CHAMPION, "not_compared": "its classes are others: crack"}
    return replace(
        facts,
        metrics={**facts.metrics, "champion": why, "disagreements": []},
        benchmark={**facts.benchmark, "champion": {**why, "not_compared": "it cannot run in onnxruntime-cpu"}},
        champion={**facts.champion, "lineage": None, "since": None},
    )


def barely_measured(facts: Facts) -> Facts:
    """Every value that may be missing is."""
    metrics = deepcopy(dict(facts.metrics))
    nothing = figure(None)
    metrics["figures"] = dict.fromkeys(CANDIDATE_FIGURES, nothing)
    metrics["champion"] |= {
        "figures": dict.fromkeys(CANDIDATE_FIGURES, nothing),
        "difference": dict.fromkeys(DIFFERENCES, nothing),
        "seen": None,
    }
    for one in metrics["disagreements"]:
        one |= {"candidate_iou": None, "champion_iou": None}
    metrics["scores"] |= {"miou": None, "iou": dict.fromkeys(metrics["scores"]["iou"])}
    metrics |= {"nn_baseline": {"miou": None}, "defect_free": 0}
    criteria = [{**one, "figure": None, "low": None, "high": None, "verdict": "not measured"} for one in CRITERIA]
    older = {**facts.lineage, "dataset": {"name": "x", "title": "X", "content_hash": "17aa"}}
    older |= {"split": {"kind": "random", "seed": 0, "leaks": "yes", "leak_rate": {}, "leak_note": None}}
    older |= {"provenance": {**facts.lineage["provenance"], "code_revision": None}}
    facts.durations.write_text("runtime,block,predict_ms,end_to_end_ms\n")
    return replace(
        facts,
        metrics=metrics,
        decision={**facts.decision, "criteria": criteria},
        benchmark={**facts.benchmark, "runtimes": {}, "champion": {"version": 5, "not_compared": "no runtime"}},
        lineage=older,
        champion={**facts.champion, "lineage": older},
    )


HOSTILE = "<script>alert(1)</script>|`x`\n# [y](http://127.0.0.1:9/z)"


def hostile(facts: Facts) -> Facts:
    """Names that others chose, chosen to do harm."""
    metrics = deepcopy(dict(facts.metrics))
    metrics["disagreements"][0] |= {"id": HOSTILE, "group": HOSTILE}
    metrics["scores"]["iou"][HOSTILE] = 0.5
    criteria = [{**one, "label": HOSTILE, "text": HOSTILE, "verdict": "failed"} for one in CRITERIA]
    bad = {**facts.lineage, "dataset": {**facts.lineage["dataset"], "title": HOSTILE, "images_by_class": {HOSTILE: 3}}}
    return replace(
        facts,
        metrics=metrics,
        decision={**facts.decision, "criteria": criteria},
        outcome={
            **facts.outcome,
            "answer": "rejected",
            "champion_after": 5,
            "model_name": HOSTILE,
            "reasons": [HOSTILE],
        },
        lineage=bad,
        champion={**facts.champion, "lineage": bad},
        links={HOSTILE: HOSTILE},
        by=HOSTILE,
    )
