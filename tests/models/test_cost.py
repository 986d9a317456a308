import pytest
import torch
from torch import nn

from dbrnet.models.cost import measure_cost
from dbrnet.models.dbrnet import DBRNet

# lfem, affm, dcppm -> parameters, G in the paper's unit at 512x512 and at 1600x256
ROWS = {
    (False, False, False): (5_530_532, 4.275, 6.680),
    (True, False, False): (3_845_668, 3.579, 5.592),
    (False, True, False): (5_544_036, 4.290, 6.704),
    (False, False, True): (5_011_876, 4.142, 6.473),
    (True, False, True): (3_327_012, 3.447, 5.385),
    (True, True, False): (3_859_172, 3.594, 5.616),
    (True, True, True): (3_340_516, 3.462, 5.409),
}


@pytest.mark.parametrize(("switches", "published"), ROWS.items())
def test_ablation_rows_have_the_published_cost(
    switches: tuple[bool, bool, bool], published: tuple[int, float, float]
) -> None:
    lfem, affm, dcppm = switches
    with torch.device("meta"):  # counting needs shapes alone
        model = DBRNet(4, lfem=lfem, affm=affm, dcppm=dcppm)
    square, strip = measure_cost(model, 512, 512), measure_cost(model, 256, 1600)
    assert square.parameters == strip.parameters == published[0]
    assert square.paper_flops / 1e9 == pytest.approx(published[1], abs=1e-3)
    assert strip.paper_flops / 1e9 == pytest.approx(published[2], abs=1e-3)
    # Batch norms, biases, ReLUs and pools are what else the paper's unit counts: near 1 %.
    assert 0.98 < square.conv_macs / square.paper_flops < 1


def test_each_unit_equals_a_count_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Identity()
    )
    cost = measure_cost(model, 10, 6)
    outputs = 8 * 5 * 3
    assert cost.parameters == 3 * 8 * 9 + 8 + 8 + 8
    assert cost.conv_macs == outputs * 27
    assert cost.paper_flops == outputs * 27 + outputs + 2 * outputs + outputs + outputs


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = DBRNet(4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_cost(model, 64, 64)
    assert model.training
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
