import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Image, decode_grey, decode_image
from dbrnet.errors import JobError, UserError
from dbrnet.files import MARKER
from dbrnet.inference.images import find_sources
from dbrnet.inference.predict import FORMATS, Format, predict_sources
from dbrnet.inference.runtimes.base import Answer, Images, Model
from tests.inference.conftest import files_below, save, save_video

ALL = frozenset(FORMATS)


def predict(model: Model, words: list[Path], out: Path, formats: frozenset[Format] = ALL, batch: int = 1) -> int:
    return predict_sources(model, find_sources(map(str, words), out), out, formats=formats, batch=batch, bit_depth=16)


def test_masks_overlays_and_summary_are_written(model: Model, make_image: Callable[..., Image], tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    images = {"a.png": make_image(64, 100), "day 2/b.png": make_image(50, 41, seed=1)}
    for name, image in images.items():
        save(folder / name, image)
    assert predict(model, [folder], out, frozenset({"masks", "overlays"})) == 2
    written = ["masks/a.png", "masks/day 2/b.png", "overlays/a.jpg", "overlays/day 2/b.jpg", "summary.csv"]
    assert sorted(files_below(out)) == written
    rows = list(csv.DictReader((out / "summary.csv").open()))
    for row, (name, image) in zip(rows, images.items(), strict=True):
        expected, confidence = model.predict(image[None])
        mask = decode_grey((out / "masks" / name).read_bytes(), name)
        np.testing.assert_array_equal(mask, expected[0])
        assert row["file"] == str(folder / name)
        assert row["output"] == name.removesuffix(".png")
        for index, info in enumerate(model.classes):
            assert float(row[info.name]) == pytest.approx((mask == index).mean(), abs=1e-6)
        assert float(row["mean_confidence"]) == pytest.approx(confidence.mean(), abs=1e-4)
        overlay = decode_image((out / "overlays" / Path(name).with_suffix(".jpg")).read_bytes(), name)
        assert overlay.shape[0] >= image.shape[0]
        assert overlay.shape[1:] == image.shape[1:]


def test_the_other_formats_agree_with_the_masks(model: Model, make_image: Callable[..., Image], tmp_path: Path) -> None:
    sources = [save(tmp_path / f"{seed}.png", make_image(48, 64, seed)) for seed in range(3)]
    predict(model, sources, tmp_path / "out")
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    table = list(csv.DictReader((tmp_path / "out/submission.csv").open()))
    assert len(table) == 9
    for image in coco["images"]:
        mask = cv2.imread(str(tmp_path / "out/masks" / image["file_name"]), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        for class_id in range(1, 4):
            wanted = image["id"], class_id
            areas = [each["area"] for each in coco["annotations"] if (each["image_id"], each["category_id"]) == wanted]
            (row,) = [r for r in table if r["ImageId_ClassId"] == f"{image['file_name']}_{class_id}"]
            runs = sum(map(int, row["EncodedPixels"].split()[1::2]))
            assert sum(areas) == runs == (mask == class_id).sum()
    assert coco["info"]["runtime"] == "onnxruntime-cpu"
    assert coco["info"]["model"]["dataset_content_hash"] == "4d5e"


def test_bytes_do_not_depend_on_batch_and_order_of_sources(
    model: Model, make_image: Callable[..., Image], tmp_path: Path
) -> None:
    sizes = [(48, 64), (64, 48), (40, 40)]
    sources = [save(tmp_path / f"images/{seed:02d}.png", make_image(*sizes[seed // 9 % 3], seed)) for seed in range(30)]
    sources.append(save_video(tmp_path / "clip.avi", [make_image(48, 64, seed) for seed in range(5)]))
    outs = [tmp_path / f"out{number}" for number in range(3)]
    predict(model, sources, outs[0], batch=1)
    predict(model, sources[::-1], outs[1], batch=16)
    predict(model, random.Random(0).sample(sources, len(sources)), outs[2], batch=7)
    expected = files_below(outs[0])
    assert len(expected) == 2 * 35 + 3
    for out in outs[1:]:
        assert files_below(out) == expected


def test_consecutive_images_of_one_size_share_a_batch(
    model: Model, make_image: Callable[..., Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights = [40] * 5 + [48] * 2 + [40]
    sources = [save(tmp_path / f"{i}.png", make_image(height, 40, i)) for i, height in enumerate(heights)]
    batches: list[int] = []
    plain = model.predict

    def count(images: Images) -> Answer:
        batches.append(len(images))
        return plain(images)

    monkeypatch.setattr(model, "predict", count)
    predict(model, sources, tmp_path / "out", batch=4)
    assert batches == [4, 1, 2, 1]
    monkeypatch.setattr("dbrnet.inference.predict.BATCH_PIXELS", 2 * 40 * 40)
    batches.clear()
    predict(model, sources, tmp_path / "out", batch=4)
    assert batches == [2, 2, 1, 1, 1, 1]


def test_the_frames_of_a_video_are_numbered(model: Model, make_image: Callable[..., Image], tmp_path: Path) -> None:
    save_video(tmp_path / "in/clip.mp4", [make_image(48, 64, seed) for seed in range(3)])
    assert predict(model, [tmp_path / "in"], tmp_path / "out") == 3
    names = [f"clip.mp4/00000{number}" for number in (1, 2, 3)]
    rows = list(csv.DictReader((tmp_path / "out/summary.csv").open()))
    assert [row["output"] for row in rows] == names
    assert [row["file"] for row in rows] == [f"{tmp_path}/in/clip.mp4#{number}" for number in (1, 2, 3)]
    for name in names:
        assert (tmp_path / f"out/masks/{name}.png").is_file()
        assert (tmp_path / f"out/overlays/{name}.jpg").is_file()


def test_broken_images_are_named_at_the_end_and_the_others_predicted(
    model: Model, make_image: Callable[..., Image], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for seed in range(8):
        save(folder / f"{seed}.png", make_image(40, 40, seed))
    save(folder / "6.png", make_image(20, 90))
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes()[:60])
    (folder / "clip.avi").write_bytes(b"no video")
    with pytest.raises(JobError) as caught:
        predict(model, [folder], out, batch=16)
    first, *others = [str(caught.value), *caplog.messages]
    assert first.startswith(f"6 predicted, 3 not: {folder}/3.png")
    assert first.endswith("(and 2 more, named above)")
    assert any(f"{folder}/6.png: an image of 20x90 is too small" in line for line in others)
    assert any(f"{folder}/clip.avi: not a readable video" in line for line in others)
    good = ["0", "1", "2", "4", "5", "7"]
    assert sorted(path.stem for path in (out / "masks").iterdir()) == good
    assert [row["output"] for row in csv.DictReader((out / "summary.csv").open())] == good
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [f"{name}.png" for name in good]
    assert [path.name for path in out.rglob(".*")] == [MARKER]


def test_a_file_in_place_of_the_output_folder_is_refused(
    model: Model, make_image: Callable[..., Image], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    source = save(tmp_path / "a.png", make_image(40, 40))
    with pytest.raises(UserError, match="out is a file, and a folder is to be written there"):
        predict(model, [source], tmp_path / "out")


@pytest.mark.slow
def test_a_killed_prediction_run_again_ends_in_the_same_bytes(
    model: Model, exported: tuple[Path, object, object], make_image: Callable[..., Image], tmp_path: Path
) -> None:
    for seed in range(80):
        save(tmp_path / f"in/{seed:03d}.png", make_image(96, 128, seed))
    expected, out = tmp_path / "expected", tmp_path / "out"
    predict(model, [tmp_path / "in"], expected)
    predict(model, [tmp_path / "in"], out)  # a previous run's tables must not outlive the kill either
    for path in (out / "masks").iterdir():
        path.unlink()
    words = ["predict", tmp_path / "in", "--model", exported[0], "--out", out, "--formats", ",".join(FORMATS)]
    process = subprocess.Popen([sys.executable, "-m", "dbrnet", *map(str, words)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any((out / "masks").glob("*.png")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list((out / "masks").glob("*.png"))) < 80, "it was killed too late to show anything"
    assert not [path for path in out.iterdir() if path.suffix in {".csv", ".json"} and path.name[0] != "."]
    for path in (out / "masks").glob("*.png"):
        assert path.read_bytes() == (expected / "masks" / path.name).read_bytes()
    (out / "masks/.007.png.x.partial").write_bytes(b"what a kill within a write leaves")
    predict(model, [tmp_path / "in"], out)
    assert files_below(out) == files_below(expected)
