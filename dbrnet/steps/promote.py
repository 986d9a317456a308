"""Step 7: the decision, and what follows from it in MLflow."""

import logging
from pathlib import Path
from typing import Any

from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, read_json, sha256_file, write_atomically, write_json
from dbrnet.params import PromoteParams
from dbrnet.provenance import origin
from dbrnet.registry.gate import Threshold, decide
from dbrnet.registry.promotion import Promotion
from dbrnet.registry.promotion import promote as carry_out
from dbrnet.registry.tracking import Store, TrackedRun, open_store, start_or_resume_run

log = logging.getLogger(__name__)

PARITY = {
    "logit_difference": "largest logit difference from PyTorch",
    "differing_pixels": "share of pixels unlike PyTorch's",
    "miou_loss": "mIoU lost against PyTorch",
    "iou_loss": "most IoU lost by one class",
}


def promote(
    params: PromoteParams, trained: Path, exported: Path, evaluated: Path, benchmarked: Path, *, out: Path
) -> None:
    """Hold the measured figures against the thresholds and carry the decision out in MLflow's registry.

    Passed: the model's version gets the alias `champion`. Not passed: the version is tagged rejected with
    each reason, and no alias moves; the step still succeeds. A figure that is missing rejects. Writes
    decision.json and summary.txt under --out.
    """
    lineage = read_json(trained / "train.json")
    facts = {
        "export": read_json(exported / "export.json"),
        "metrics": read_json(evaluated / "metrics.json"),
        "benchmark": read_json(benchmarked / "benchmark.json"),
    }
    model = exported / facts["export"]["model_file"]
    _require_one_model(facts, model)
    decision = decide(_figures(facts, params), _thresholds(facts, params))
    store = open_store(Path.cwd())
    dataset, split = lineage["dataset"], lineage["split"]
    run = start_or_resume_run(
        store,
        dataset["name"],
        run_id=lineage["run_id"],
        name=params.model_name,
        tags={"answer": decision.answer},
    )
    with run:
        files = [evaluated / "report.html", evaluated / "metrics.json", exported / "export.json",
                 benchmarked / "benchmark.json", *sorted(benchmarked.glob("*.png"))]  # fmt: skip
        _publish(run, facts, files)
        promotion = carry_out(
            decision,
            model,
            model_name=params.model_name,
            run=run,
            evidence={
                "dataset": dataset["name"],
                "dataset_hash": dataset["content_hash"],
                "split": split["kind"],
                "leaks": split["leaks"],
                "code_revision": lineage["origin"]["code_revision"],
                **{f"dvc_{name}": value for name, value in dataset.get("dvc", {}).items()},
            },
        )
    summary = _summary(promotion, facts, lineage, evaluated, store)
    with atomic_directory(out) as folder:
        write_json(
            folder / "decision.json",
            decision.to_dict() | {"promotion": promotion.to_dict(), "run_id": run.run_id, "origin": origin()},
        )
        write_atomically(folder / "summary.txt", summary)
    log.info("%s", promotion.summary)


def _require_one_model(facts: dict[str, dict[str, Any]], model: Path) -> None:
    """Figures of another model must not promote this one."""
    digest = sha256_file(model)
    for name, content in facts.items():
        if content.get("model_sha256") != digest:
            raise UserError(f"the {name} figures are of another model than {model}; run that step again")


def _thresholds(facts: dict[str, dict[str, Any]], params: PromoteParams) -> list[Threshold]:
    """Accuracy and speed of the deployed runtime, and the parity of every runtime that was measured."""
    runtimes = facts["metrics"].get("runtimes", {})
    deployed = facts["export"]["runtimes"][0]
    hardware = "" if params.fps_hardware == "any" else f" on {params.fps_hardware}"
    found = [
        Threshold("miou", "mIoU", params.min_miou, "at least"),
        Threshold("fps", f"frames per second{hardware}", params.min_fps, "at least"),
    ]
    for name in dict.fromkeys([deployed, *runtimes]):  # the deployed one is asked for, measured or not
        limits = getattr(params.parity, runtimes.get(name, {}).get("precision", "fp32"))
        for figure, label in PARITY.items():
            found.append(
                Threshold(f"{name}/{figure}", f"{name}: {label}", getattr(limits, f"max_{figure}"), "at most")
            )
    return found


def _figures(facts: dict[str, dict[str, Any]], params: PromoteParams) -> dict[str, float | None]:
    deployed = facts["export"]["runtimes"][0]
    figures = {"miou": facts["metrics"].get("scores", {}).get("miou")}
    speed = facts["benchmark"]
    hardware = speed["origin"]["hardware"]
    machine = " ".join([hardware["cpu"], *hardware["gpus"]])
    if params.fps_hardware == "any" or params.fps_hardware.casefold() in machine.casefold():
        figures["fps"] = speed.get("runtimes", {}).get(deployed, {}).get("fps")
    for name, parity in facts["metrics"].get("runtimes", {}).items():
        losses = [-change for change in parity["iou_change"].values() if change is not None]
        figures |= {
            f"{name}/logit_difference": parity["max_logit_difference"],
            f"{name}/differing_pixels": parity["differing_pixels"],
            f"{name}/miou_loss": max(0.0, -parity["miou_change"]),
            f"{name}/iou_loss": max([0.0, *losses]),
        }
    return figures


def _publish(run: TrackedRun, facts: dict[str, dict[str, Any]], files: list[Path]) -> None:
    """Put the figures and the files behind the decision into the training's run."""
    scores = facts["metrics"]["scores"]
    metrics = {"test_miou": scores["miou"], "test_miou_defects": scores["miou_defects"],
               "test_pixel_accuracy": scores["pixel_accuracy"]}  # fmt: skip
    metrics |= {f"test_iou_{name}": value for name, value in scores["iou"].items()}
    for name, latency in facts["benchmark"]["runtimes"].items():
        metrics |= {f"{name}_{figure}": latency[figure] for figure in ("fps", "p50_ms", "p99_ms")}
    for name, parity in facts["metrics"]["runtimes"].items():
        metrics |= {f"{name}_{figure}": parity[figure]
                    for figure in ("miou_change", "max_logit_difference", "differing_pixels")}  # fmt: skip
    run.log_metrics({name: value for name, value in metrics.items() if value is not None}, step=0)
    for file in files:
        run.log_artifact(file)


def _summary(
    promotion: Promotion,
    facts: dict[str, dict[str, Any]],
    lineage: dict[str, Any],
    evaluated: Path,
    store: Store,
) -> str:
    """The outcome as the terminal shows it."""
    metrics, speed = facts["metrics"], facts["benchmark"]
    copied = metrics["look_up"]["miou"]
    scores, split = metrics["scores"], lineage["split"]
    leaks = f"LEAKS {split['leaking_share']['test']:.1%}" if split["leaks"] == "yes" else "no leak"
    defects = "none" if scores["miou_defects"] is None else f"{scores['miou_defects']:.4f}"
    iou = [f"{name} {'absent' if value is None else f'{value:.3f}'}" for name, value in scores["iou"].items()]
    hardware = speed["origin"]["hardware"]
    lines = [
        ("decision", promotion.summary),
        ("mIoU", f"{scores['miou']:.4f} with background, {defects} over defects"),
        ("", f"{metrics['pictures']} test pictures of {lineage['dataset']['title']}, split by "
             f"{split['kind']} (seed {split['seed']}): {leaks}"),
        ("", f"copying the nearest training picture's mask, with no learning, scores {copied:.4f}"),
        ("IoU", ", ".join(iou)),
        ("speed", _speed_of(metrics["runtime"], speed)),
        ("", f"one picture of {speed['size'][0]}x{speed['size'][1]}, {speed['threads']} threads, "
             + ", ".join([hardware["cpu"], *hardware["gpus"]])),
        *(("", f"{_speed_of(name, speed)}, mIoU {one['miou']:.4f}")
          for name, one in metrics["runtimes"].items() if name != metrics["runtime"]),
        ("report", f"{evaluated / 'report.html'}"),
        ("MLflow", str(store) if store.is_server
                   else f"make ui, then open http://127.0.0.1:5000/#/models/{promotion.model_name}"),
    ]  # fmt: skip
    return "\n".join(f"{label:>9}  {text}" for label, text in lines) + "\n"


def _speed_of(runtime: str, speed: dict[str, Any]) -> str:
    one = speed["runtimes"].get(runtime)
    if one is None:
        return f"{runtime}: not measured"
    return (f"{one['fps']:.1f} frames per second (p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms), "
            f"{runtime}, {one['precision']}")  # fmt: skip
