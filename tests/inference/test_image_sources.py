import random
from pathlib import Path

import pytest

from dbrnet.errors import UserError
from dbrnet.inference.image_sources import find_sources
from tests.storage.s3_server import BUCKET, S3Server

TREE = ("b.png", "a.JPG", "day 1/c.tif", "day 1/night/d.mp4", "f.gif", "notes.txt", ".hidden.png", ".cache/e.png")
WANTED = {"a.JPG": "a", "b.png": "b", "day 1/c.tif": "day 1/c", "day 1/night/d.mp4": "day 1/night/d.mp4", "f.gif": "f"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TREE:
        path = tmp_path / "line3" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*words: str) -> dict[str, str]:
    return {one.place: one.output for one in find_sources(words, Path("scratch"))}


def test_a_folder_stands_for_what_is_in_it_and_in_its_folders(tree: Path) -> None:
    sources = find_sources(["line3"], Path("scratch"))
    assert {one.name: one.output for one in sources} == WANTED
    assert [one.name for one in sources] == sorted(WANTED)
    assert [one.place for one in sources] == [f"line3/{one.name}" for one in sources]
    assert [one.is_video for one in sources] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("line3/*.png", {"line3/b.png": "b"}),
        ("line3/**/*.tif", {"line3/day 1/c.tif": "day 1/c"}),
        ("line3/**/*", {f"line3/{name}": output for name, output in WANTED.items()}),
        ("line?/*", {f"line3/{name}": f"line3/{output}" for name, output in WANTED.items()}),
        ("line3/[ab].*", {"line3/a.JPG": "a", "line3/b.png": "b"}),
        ("line3/b.png", {"line3/b.png": "b"}),
        ("line3/notes.txt", {"line3/notes.txt": "notes"}),  # named by itself: reading it will tell
    ],
)
def test_files_and_globs(tree: Path, word: str, expected: dict[str, str]) -> None:
    assert found(word) == expected
    absolute = {str(tree / place): output for place, output in expected.items()}
    assert found(str(tree / word)) == absolute


def test_a_name_that_looks_like_a_glob_is_a_file_if_there_is_one(tree: Path) -> None:
    (tree / "x[1].png").write_bytes(b"")
    assert found("x[1].png") == {"x[1].png": "x[1]"}


def test_the_order_of_words_does_not_matter_and_each_is_taken_once(tree: Path) -> None:
    for name in ("one/x.png", "two/x.png", "two/x-2.png", "two/x.jpg"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"")
    words = ["line3", "line3/*.png", "one/x.png", "two/x.png", "two", "line3/day 1/c.tif"]
    expected = find_sources(words, Path("scratch"))
    for seed in range(5):
        shuffled = random.Random(seed).sample(words, len(words))
        assert find_sources(shuffled, Path("scratch")) == expected
    assert len({one.name for one in expected}) == len({one.output for one in expected}) == len(expected) == 9
    named = {one.place: (one.name, one.output) for one in expected}
    assert named["two/x-2.png"] == ("x-2.png", "x-2")  # a name of its own is never given to another
    assert named["two/x.jpg"] == ("x.jpg", "x")
    assert named["one/x.png"] == ("x.png", "x-4")
    assert named["two/x.png"] == ("x-3.png", "x-3")


def test_what_was_written_before_is_not_predicted(tree: Path) -> None:
    for folder in ("masks", "overlays"):
        (tree / "line3" / folder).mkdir()
        (tree / "line3" / folder / "a.png").write_bytes(b"")
    left_out = [tree / "line3/masks", tree / "line3/overlays"]
    for word in ("line3", "line3/**/*", "*"):
        assert len(find_sources([word], Path("scratch"), left_out)) == len(WANTED)
        assert len(find_sources([word], Path("scratch"))) == len(WANTED) + 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gone.png", "gone.png: there is no such file or folder"),
        ("empty", "empty: no image or video there"),
        ("line3/*.bmp", r"line3/\*.bmp: no image or video there"),
        ("line3/**.png", r"line3/\*\*.png: not a glob"),
        ("http://line3/a.png", "no such file"),
    ],
)
def test_a_word_that_leads_to_nothing(tree: Path, word: str, message: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        found("line3", word)


def test_no_word_at_all(tree: Path) -> None:
    with pytest.raises(UserError, match="no image to predict"):
        found()


def test_images_in_s3(s3: S3Server, tmp_path: Path) -> None:
    for name in TREE:
        s3.client().put_object(Bucket=BUCKET, Key=f"predict/{name}", Body=name.encode())
    address = f"s3://{BUCKET}/predict"
    for word in (f"{address}/", address):
        sources = find_sources([word, f"{address}/b.png"], tmp_path / word.replace("/", "-"))
        assert {one.name: one.output for one in sources} == WANTED
        assert [one.place for one in sources] == [f"{address}/{one.name}" for one in sources]
        assert [one.path.read_bytes() for one in sources] == [one.name.encode() for one in sources]
