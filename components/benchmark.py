"""Step 7 as a component."""

from kfp import dsl

from components.component import component


@component
def benchmark(
    params: str,
    dataset: dsl.Input[dsl.Dataset],
    split: dsl.Input[dsl.Artifact],
    trained: dsl.Input[dsl.Model],
    exported: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Artifact],
    benchmarked: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Measure the speed on this machine, in every runtime that it has, in turns with the champion.

    Never cached: a speed belongs to the machine that it was measured on.

    Args:
        params: the section `benchmark` of params.yaml as JSON.
        dataset: what `ingest` wrote.
        split: what `split` wrote.
        trained: what `train` wrote.
        exported: what `export` wrote.
        champion: what `champion` wrote.
        evaluated: what `evaluate` wrote.
        benchmarked: benchmark.json, durations.csv, latency.png, speed-accuracy.png.
        metrics: frames per second and latencies by runtime.
    """
    from pathlib import Path

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call(
        "benchmark",
        params,
        dataset=dataset.path,
        split=split.path,
        trained=trained.path,
        exported=exported.path,
        champion=champion.path,
        evaluated=evaluated.path,
        out=benchmarked.path,
    )
    found = read_json(Path(benchmarked.path, "benchmark.json"))
    for runtime, latency in found["runtimes"].items():
        for name in ("fps", "p50_ms", "p99_ms"):
            metrics.log_metric(f"{runtime}_{name}", latency[name])
    metrics.metadata["cpu"] = found["provenance"]["hardware"]["cpu"]
