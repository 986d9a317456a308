import hashlib
import logging
from pathlib import Path

import pytest
import torch

from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError
from dbrnet.models import Switches
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta, save_model
from dbrnet.records import PretrainRecord
from dbrnet.training.start import DDRNET, GENERATED, HEADS, Start, save_weights

FULL = Switches(lfem=True, affm=True, dcppm=True)
BASELINE = Switches(lfem=False, affm=False, dcppm=False)


def network(classes: int, seed: int = 0, switches: Switches = FULL) -> DBRNet:
    torch.manual_seed(seed)
    return DBRNet(classes, lfem=switches.lfem, affm=switches.affm, dcppm=switches.dcppm)


def saved(path: Path, model: DBRNet, *classes: str) -> Path:
    infos = tuple(ClassInfo(name, (0, 0, 0)) for name in classes)
    meta = ModelMeta(infos, FULL, (0.5,) * 3, (0.2,) * 3, zoom=1.0, normalised=False)
    save_model(path, model, meta)
    return path


def test_rows_go_by_the_classes_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = network(4), network(3, seed=1)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    path = saved(tmp_path / "model.pt", old, "background", "dent", "scratch", "stain")
    with caplog.at_level(logging.INFO):
        Start.read(path, "old").load_into(new, ["background", "scratch", "hole"])
    assert "starting from old: 100 % of the weights" in caplog.text
    after, given = new.state_dict(), old.state_dict()
    for name, value in after.items():
        if name.rsplit(".", 1)[0] in HEADS:
            assert torch.equal(value[0], given[name][0])  # background
            assert torch.equal(value[1], given[name][2])  # scratch
            assert torch.equal(value[2], before[name][2])  # of a hole nothing is known
        else:
            assert torch.equal(value, given[name]), name
    assert {name.rsplit(".", 1)[0] for name in after} >= set(HEADS)


def test_shrunk_weights_are_filled_up_with_random_ones(tmp_path: Path) -> None:
    old, new = network(3), network(3, seed=1)
    before = {name: value.clone() for name, value in new.named_parameters()}
    given = dict(old.named_parameters())
    path = saved(tmp_path / "model.pt", old, "background", "scratch", "hole")
    Start.read(path, "old").load_into(new, ["background", "scratch", "hole"], shrink=0.25)
    for name, value in new.named_parameters():
        torch.testing.assert_close(value, 0.25 * given[name] + 0.75 * before[name])


def test_half_precision_and_back(tmp_path: Path) -> None:
    old, new = network(8), network(3, seed=1)
    path = tmp_path / "weights.safetensors"
    save_weights(path, old)
    assert path.stat().st_size < 7e6
    Start.read(path, "generated").load_into(new, ["background", "a", "b"])
    for name, value in new.state_dict().items():
        assert value.dtype == old.state_dict()[name].dtype
        if name.rsplit(".", 1)[0] not in HEADS:
            torch.testing.assert_close(value, old.state_dict()[name], rtol=1e-3, atol=1e-6)
    save_weights(tmp_path / "again.safetensors", old)
    assert Start.read(tmp_path / "again.safetensors", "").digest == Start.read(path, "").digest


def ddrnet(model: DBRNet) -> dict[str, torch.Tensor]:
    """The baseline's weights as DDRNet's authors name them: the modules' names, and the layers' in their order."""
    held = {}
    for theirs, own in DDRNET.items():
        names = [name for name in model.state_dict() if name.startswith(own)]
        for place, name in enumerate(names):
            held[f"model.{theirs}{'0.conv1.weight' if place == 0 else place}"] = model.state_dict()[name]
    return held


@pytest.mark.parametrize(("switches", "share"), [(BASELINE, 1.0), (FULL, 2.71 / 3.34)])
def test_a_checkpoint_of_ddrnet(
    tmp_path: Path, switches: Switches, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    official = network(19, switches=BASELINE)
    torch.save(ddrnet(official), tmp_path / "ddrnet.pth")
    model = network(5, seed=1, switches=switches)
    with caplog.at_level(logging.INFO):
        Start.read(tmp_path / "ddrnet.pth", "DDRNet").load_into(model, ["background", "a", "b", "c", "d"])
    said = float(caplog.text.split("DDRNet: ")[1].split(" %")[0]) / 100
    assert said == pytest.approx(share, abs=0.01)
    for name in ("stem.0.weight", "detail3.0.body.0.weight", "context.pools.1.3.weight", "context.whole.2.weight"):
        if name in model.state_dict():
            assert torch.equal(model.state_dict()[name], official.state_dict()[name]), name


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.safetensors", network(3))
    start = Start.read(tmp_path / "weights.safetensors", "mine")
    torch.save({"state_dict": dict(list(start.weights.items())[:40])}, tmp_path / "part.pt")
    model = network(3, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"train\.start: part fits \d+% of the network's weights, and at least 50%"):
        Start.read(tmp_path / "part.pt", "part").load_into(model, ["background", "a", "b"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [None, b"", b"not weights"])
def test_no_weights_are_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^train\.start: .*(does not exist|is broken or holds no weights)$"):
        Start.read(path, "mine")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "plain.pt")
    with pytest.raises(UserError, match="holds no weights"):
        Start.read(tmp_path / "plain.pt", "mine")


def test_the_weights_that_come_with_the_program_are_those_of_their_card() -> None:
    card = PretrainRecord.load(GENERATED.parent)
    assert hashlib.sha256(GENERATED.read_bytes()).hexdigest() == card.sha256
    assert GENERATED.stat().st_size < 7_000_000
    assert card.provenance.code_revision
    torch.manual_seed(0)
    model, untouched = network(3), network(3)
    Start.read(GENERATED, "generated").load_into(model, ["background", "scratch", "hole"])
    after, before = model.state_dict(), untouched.state_dict()
    assert [name for name in after if torch.equal(after[name], before[name])] == [
        f"{head}.{part}" for head in HEADS for part in ("weight", "bias")
    ]
