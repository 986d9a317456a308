"""DBRNet against the published counts, the authors' outputs, and the promises of its docstrings."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from released_names import released_name
from torch import Tensor

from dbrnet.models.dbrnet import DBRNet

GOLDEN = Path(__file__).parent / "golden"
VARIANTS: dict[str, dict[str, object]] = {
    "released": {"flow": "released", "process": "depthwise"},
    "f_dw_bn_relu_pw": {"flow": "released", "process": "pointwise"},
    "baseline": {"lfem": False, "affm": False, "dcppm": False},
}


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The golden files' rule: every tensor from its released name."""
    t: NDArray[np.floating] = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    t = t.astype(np.float32)
    if name.endswith("running_var"):
        t = 0.5 + 0.5 * np.abs(t)
    elif name.endswith("running_mean"):
        t = 0.1 * t
    elif len(shape) == 1:
        t = 1 + 0.1 * t if name.endswith(".weight") else 0.1 * t
    elif len(shape) == 4 and not name.startswith("input:"):
        t = t / np.sqrt(t[0].size)
    return torch.from_numpy(np.asarray(t, np.float32))


def golden_model(variant: str) -> DBRNet:
    model = DBRNet(4, **VARIANTS[variant]).eval()  # type: ignore[arg-type]
    state = {
        name: torch.tensor(0)
        if name.endswith("num_batches_tracked")
        else filled(released_name(name), tuple(v.shape))
        for name, v in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def test_released_state_dict_is_covered() -> None:
    """Ours, renamed, is theirs to the shape, but for `compression4`, which they never call."""
    theirs = {name: tuple(shape) for name, shape in json.loads((GOLDEN / "state_dict_keys.json").read_text())}
    ours = {
        released_name(name): tuple(v.shape)
        for name, v in DBRNet(4, flow="released", process="depthwise").state_dict().items()
    }
    assert ours == {name: shape for name, shape in theirs.items() if not name.startswith("compression4.")}


@pytest.mark.parametrize(("height", "width"), [(64, 96), (200, 200), (256, 512)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_outputs(variant: str, height: int, width: int) -> None:
    golden = np.load(GOLDEN / f"{variant}_{height}x{width}.npz")
    picture = filled(f"input:1:{height}:{width}", (1, 3, height, width))
    with torch.inference_mode():
        logits = golden_model(variant)(picture)[0].numpy()
    assert np.abs(logits[:, ::8, ::8] - golden["out_1_8"]).max() < 1e-4
    assert np.abs(logits[:, :16, :16] - golden["corner"]).max() < 1e-4
