"""Datasets: readers into one canonical form, run-length masks, splitting, loading, and generated data.

`open_dataset` is the entry point: it opens a dataset on this machine, or one whose images lie in S3.
"""

from pathlib import Path

from dbrnet.data.dataset import LINK_FILE, Card, ClassInfo, Dataset, Sample

__all__ = ["Card", "ClassInfo", "Dataset", "Sample", "open_dataset"]


def open_dataset(root: Path) -> Dataset:
    """The dataset in the folder `root`; its images may lie in S3 (a `RemoteDataset`), which link.json says.

    Raises `UserError` where a table is missing or broken.
    """
    if (root / LINK_FILE).exists():
        from dbrnet.data.remote_dataset import RemoteDataset  # brings boto3, which few datasets need

        return RemoteDataset.load(root)
    return Dataset.load(root)
