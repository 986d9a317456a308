import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError
from dbrnet.models import Switches
from dbrnet.models.saved import ModelMeta, load_model, save_model

META = ModelMeta(
    classes=(ClassInfo("background", (0, 0, 0)), ClassInfo("crack", (255, 0, 64))),
    model=Switches(lfem=True, affm=False, dcppm=True),
    mean=(0.4, 0.41, 0.42),
    std=(0.2, 0.21, 0.22),
    zoom=0.5,
    normalised=False,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    save_model(path, META.build(), META)
    return path


@pytest.mark.parametrize("zoom", [0.5, 1.0])
def test_a_model_loads_as_it_was_saved(tmp_path: Path, zoom: float) -> None:
    meta = dataclasses.replace(META, zoom=zoom, normalised=zoom == 1)
    model = meta.build()
    save_model(tmp_path / "model.pt", model, meta)
    generator = torch.get_rng_state()
    loaded, read = load_model(tmp_path / "model.pt")
    assert torch.equal(torch.get_rng_state(), generator)
    assert read == meta
    assert not loaded.training
    image = torch.randn(1, 3, 32, 40)
    with torch.inference_mode():
        assert torch.equal(loaded(image), model.eval()(image))


def test_a_loaded_model_trains(saved: Path) -> None:
    model, _ = load_model(saved)
    logits, auxiliary = model.train()(torch.randn(2, 3, 32, 32))
    (logits.mean() + auxiliary.mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = META.build()
    save_model(tmp_path / "a.pt", model, META)
    save_model(tmp_path / "b.pt", model, META)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_broken_and_foreign_files_are_one_clear_line(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    folder = saved.parent
    mark = folder / "code-ran"

    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("no model\n")
    (folder / "cut.pt").write_bytes(saved.read_bytes()[:-5000])
    (folder / "hostile.pt").write_bytes(pickle.dumps(Hostile(mark), protocol=2))
    torch.save({"weights": torch.zeros(3)}, folder / "other.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save(content | {"model": {"lfem": False, "affm": False, "dcppm": True}}, folder / "switched.pt")
    torch.save(content | {"classes": content["classes"] + content["classes"]}, folder / "classes.pt")
    torch.save(content | {"mean": [1.0]}, folder / "mean.pt")
    torch.save({key: value for key, value in content.items() if key != "normalised"}, folder / "lacking.pt")
    names = ["lacking", "missing", "empty", "text", "cut", "hostile", "other", "list", "switched", "classes", "mean"]
    for name in names:
        path = folder / f"{name}.pt"
        with pytest.raises(UserError) as error:
            load_model(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        load_model(folder)
    assert not mark.exists()
