"""The cost of a network: parameters and multiply-accumulates, counted while it runs."""

import torch
from torch import Tensor, nn

from dbrnet.models.blocks import LFEM, ResidualBlock, SegHead
from dbrnet.records import ComplexityFacts

# The authors' blocks call ReLU as a function, which torchstat does not see: those ReLUs count nothing.
UNSEEN_RELUS = (ResidualBlock, LFEM, SegHead)


def measure_cost(model: nn.Module, height: int, width: int) -> ComplexityFacts:
    """Count what `model` computes for one image [1, 3, height, width] in eval mode; leaves it as it was."""
    used: dict[int, int] = {}  # a parameter's identity -> its elements
    conv_macs = paper_flops = 0
    unseen = {id(module) for block in model.modules() if isinstance(block, UNSEEN_RELUS) for module in block.modules()}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal conv_macs, paper_flops
        used.update((id(p), p.numel()) for p in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d):
            macs = output.numel() * module.weight[0].numel()
            conv_macs += macs
            paper_flops += macs + (output.numel() if module.bias is not None else 0)
        elif isinstance(module, nn.BatchNorm2d):
            paper_flops += 2 * output.numel()
        elif isinstance(module, nn.ReLU) and id(module) not in unseen:
            paper_flops += output.numel()
        elif isinstance(module, nn.AvgPool2d):
            paper_flops += inputs[0].numel()

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    training = model.training
    try:
        model.eval()
        weight = next(model.parameters())
        with torch.inference_mode():
            model(torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return ComplexityFacts(
        height=height, width=width, parameters=sum(used.values()), conv_macs=conv_macs, paper_flops=paper_flops
    )
