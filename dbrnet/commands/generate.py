"""`dbrnet generate`: the built-in dataset."""

from pathlib import Path

from dbrnet.data import synthetic
from dbrnet.errors import UserError


def generate(*, out: Path, count: int = 200, seed: int = 0) -> None:
    """Make images of steel strip with four kinds of defects, in Severstal's own layout.

    Writes train.csv (run-length masks) and train_images/ under --out. Rotated and mirrored near-copies are
    among them, as in the public sets, so that splitting by groups matters. For the demo and the tests.
    """
    if count < 50:
        raise UserError(f"--count {count}: at least 50, or a rare defect may be missing")
    synthetic.generate(out, images=count, seed=seed)
