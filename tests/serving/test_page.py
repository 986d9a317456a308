"""The page in a real browser."""

import base64
import shutil
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, FilePayload, Page, sync_playwright

from dbrnet.data.dataset import Image
from tests.serving.conftest import Service, png

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update"]

DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name, { type }));
  const event = { dataTransfer: dropped, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", event));
}"""
PAINTED = "() => ['fill', 'outline'].map((id) => { const canvas = document.getElementById(id); return Array.from("
PAINTED += "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data); })"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """The page as on a phone; what it asks for elsewhere, or any error in it, fails the test."""
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    elsewhere: list[str] = []
    errors: list[str] = []
    own = (f"http://127.0.0.1:{service.port}/", "blob:", "data:")
    opened.on("request", lambda asked: None if asked.url.startswith(own) else elsewhere.append(asked.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("filechooser", lambda _: None)  # from now on the browser hands its dialog to the test
    opened.set_default_timeout(60_000)
    opened.goto(f"http://127.0.0.1:{service.port}/")
    yield opened
    assert not elsewhere
    assert not errors
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.close()


def drop(page: Page, name: str, kind: str, data: bytes) -> None:
    page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])


def test_a_dropped_image_is_shown_with_its_defects(
    page: Page, service: Service, make_image: Callable[..., Image]
) -> None:
    data = png(make_image(120, 160))
    answer = service.predict(data).json
    drop(page, "strip.png", "image/png", data)
    rows = page.locator("#defects button")
    rows.first.wait_for()
    said = [row.inner_text().split("\n") for row in rows.all()]
    first = answer["defects"][0]
    assert len(said) == len(answer["defects"]) > 1
    _, _, width, height = first["bbox"]
    assert [word.strip() for word in said[0]] == [
        first["class_name"],
        f"{width} × {height}",
        str(first["area"]),
        f"{first['score']:.2f}",
    ]
    assert "strip.png, 160 × 120" in page.inner_text("#status")
    assert "model.onnx" in page.inner_text("#model")
    assert "onnxruntime-cpu" in page.inner_text("#model")
    assert "4d5e" in page.inner_text("#model")
    assert page.locator("#legend li").count() == 3
    assert page.evaluate("document.getElementById('image').naturalWidth") == 160
    fill, outline = (np.array(layer).reshape(120, 160, 4) for layer in page.evaluate(PAINTED))
    encoded = np.frombuffer(base64.b64decode(answer["mask"]), np.uint8)
    mask = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    np.testing.assert_array_equal((fill + outline)[..., 3] == 255, mask > 0)
    colors = np.array([[0, 0, 0], [230, 60, 40], [40, 200, 90], [60, 90, 240]])
    np.testing.assert_array_equal((fill + outline)[..., :3], colors[mask])
    assert outline[..., 3].any()
    assert fill[..., 3].any()


def test_focusing_or_pointing_at_a_defect_marks_it(
    page: Page, service: Service, make_image: Callable[..., Image]
) -> None:
    data = png(make_image(120, 160))
    left, top, width, height = service.predict(data).json["defects"][1]["bbox"]
    drop(page, "strip.png", "image/png", data)
    row = page.locator("#defects button").nth(1)
    for turn_to in (row.focus, row.hover):
        turn_to()
        page.locator("#mark").wait_for(state="visible")
        mark, frame = page.locator("#mark").bounding_box(), page.locator("#frame").bounding_box()
        assert mark is not None
        assert frame is not None
        scale = frame["width"] / 160
        expected = [frame["x"] + left * scale - 3, frame["y"] + top * scale - 3, width * scale + 6]
        assert [mark["x"], mark["y"], mark["width"]] == pytest.approx(expected, abs=1.5)
        assert mark["height"] == pytest.approx(height * scale + 6, abs=1.5)
        page.locator("h1").hover()
        row.blur()
        page.locator("#mark").wait_for(state="hidden")


def test_a_broken_image_shows_an_error_and_the_next_one_works(page: Page, make_image: Callable[..., Image]) -> None:
    drop(page, "broken.png", "image/png", b"nonsense")
    page.locator("#error").wait_for(state="visible")
    said = page.inner_text("#error")
    assert said.startswith("broken.png: ")
    assert len(said) > 25
    assert not page.locator("#result").is_visible()
    drop(page, "words.txt", "text/plain", b"nonsense")
    page.locator("#error", has_text="not 'text/plain'").wait_for()
    drop(page, "good.png", "image/png", png(make_image(64, 64)))
    page.locator("#result").wait_for(state="visible")
    assert not page.locator("#error").is_visible()
    assert page.locator("#shots button").all_inner_texts()[0].split("\n")[-1] == "not read"


def test_the_page_works_by_keyboard_alone(page: Page, make_image: Callable[..., Image]) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    files: list[FilePayload] = [
        {"name": f"{seed}.png", "mimeType": "image/png", "buffer": png(make_image(64, 64 + seed, seed))}
        for seed in range(3)
    ]
    chooser.value.set_files(files)
    page.locator("#status", has_text="2.png, 66 × 64").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#status", has_text="0.png, 64 × 64").wait_for()
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(document.getElementById('fill')).opacity") == "0"
    for _ in range(2):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#defects') !== null"):
            break
    page.locator("#mark").wait_for(state="visible")
