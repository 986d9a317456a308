import pytest

from dbrnet import progress as module
from dbrnet.progress import duration, progress


def test_hands_on_each_item_and_is_silent_while_there_is_little_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_in_a_log_long_work_tells_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    list(progress(range(2), 2, "reading"))
    assert capsys.readouterr() == (
        "",
        "reading: 1 of 2, 0 s elapsed, about 0 s left\nreading: 2 of 2, 0 s elapsed, about 0 s left\n",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (12000, "3 h 20 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
