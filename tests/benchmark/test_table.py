from dbrnet.benchmark.table import table


def test_columns_are_aligned_and_markdown() -> None:
    rows = [{"runtime": "a", "p50 ms": "10.0"}, {"runtime": "longer", "p50 ms": "7.5"}]
    assert table(rows).splitlines() == [
        "| runtime | p50 ms |",
        "| ------- | -----: |",
        "| a       |   10.0 |",
        "| longer  |    7.5 |",
    ]
