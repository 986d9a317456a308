"""Outputs equal those of the authors' released code, for weights filled from the names of its tensors."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dbrnet.models.dbrnet import DBRNet

GOLDEN = Path(__file__).parent / "golden"
VARIANTS: dict[str, dict[str, object]] = {
    "released": {"alignment": "released", "process": "depthwise"},
    "f_dw_bn_relu_pw": {"alignment": "released", "process": "pointwise"},
    "baseline": {"lfem": False, "affm": False, "dcppm": False, "alignment": "released"},
}

# Our prefix -> theirs; the longest that fits is replaced.
PREFIXES = {
    "stem": "conv1",
    "stage1": "layer1",
    "stage2": "layer2",
    "semantic3": "layer3",
    "semantic4": "layer4",
    "semantic5": "layer5.0",
    "detail3": "layer3_.0",
    "detail4": "layer4_.0",
    "detail5": "layer5_.0",
    "fusion.compress": "compression3",
    "fusion.attention": "wavg1",
    "fusion.contrast_semantic": "alignlayer3_.down_h",
    "fusion.contrast_detail": "alignlayer3_.down_l",
    "fusion.flow": "alignlayer3_.flow_make",
    "down3": "down3",
    "down4": "down4",
    "context.identity": "spp.scale0",
    "context.pools.0": "spp.scale1",
    "context.pools.1": "spp.scale2",
    "context.pools.2": "spp.scale3",
    "context.processes.0": "spp.process1",
    "context.processes.1": "spp.process2",
    "context.processes.2": "spp.process3",
    "context.processes.3": "spp.process4",
    "context.join": "spp.compression",
    "context.shortcut": "spp.shortcut",
    "head": "final_layer",
    "auxiliary_head": "seghead_extra",
}

# Inside a block or head: our place -> their layer.
SEQUENCE = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
HEAD = {"0": "bn1", "2": "conv1", "3": "bn2", "5": "conv2"}
LFEM = {
    "expand.0": "conv1",
    "expand.1": "bn1",
    "local.0": "conv2",
    "local.1": "bn2",
    "wide.0": "conv2_last",
    "wide.1": "bn2_last_bn",
    "join.1": "conv3",
    "join.2": "bn3",
}


def released_name(name: str) -> str:
    """The released code's name of our state_dict's entry `name`."""
    if match := re.fullmatch(r"context\.whole\.(\d)\.(\w+)", name):
        # Theirs holds the pooling, ours takes the mean in `forward`.
        return f"spp.scale4.{int(match[1]) + 1}.{match[2]}"
    prefix = max((p for p in PREFIXES if name.startswith(f"{p}.")), key=len)
    rest = name.removeprefix(f"{prefix}.")
    if prefix.endswith("head"):
        place, rest = rest.removeprefix("body.").split(".", 1)
        rest = f"{HEAD[place]}.{rest}"
    rest = re.sub(r"body\.(\d)", lambda m: SEQUENCE[m[1]], rest)
    rest = re.sub(r"(?:expand|local|wide|join)\.\d", lambda m: LFEM[m[0]], rest)
    rest = rest.replace("residual.", "downsample.")
    return f"{PREFIXES[prefix]}.{rest}"


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
        name: torch.tensor(0) if name.endswith("num_batches_tracked") else filled(released_name(name), tuple(v.shape))
        for name, v in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def test_our_state_dict_is_the_released_one_renamed() -> None:
    """Ours, renamed, is theirs to the shape, but for `compression4`, which they never call."""
    theirs = {name: tuple(shape) for name, shape in json.loads((GOLDEN / "state_dict_keys.json").read_text())}
    ours = {
        released_name(name): tuple(v.shape)
        for name, v in DBRNet(4, alignment="released", process="depthwise").state_dict().items()
    }
    assert ours == {name: shape for name, shape in theirs.items() if not name.startswith("compression4.")}


@pytest.mark.parametrize(("height", "width"), [(64, 96), (200, 200), (256, 512)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_the_released_codes(variant: str, height: int, width: int) -> None:
    golden = np.load(GOLDEN / f"{variant}_{height}x{width}.npz")
    image = filled(f"input:1:{height}:{width}", (1, 3, height, width))
    with torch.inference_mode():
        logits = golden_model(variant)(image)[0].numpy()
    assert np.abs(logits[:, ::8, ::8] - golden["out_1_8"]).max() < 1e-4
    assert np.abs(logits[:, :16, :16] - golden["corner"]).max() < 1e-4
