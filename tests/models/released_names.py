"""The names that the authors' released code gives to our parameters and buffers.

The golden files fill every tensor from its released name, so a test needs to know which is which.
"""

import re

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
