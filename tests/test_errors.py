import pytest

from dbrnet.errors import JobError, UserError


@pytest.mark.parametrize("kind", [UserError, JobError])
def test_a_message_is_one_printable_line(kind: type[Exception]) -> None:
    message = str(kind("a\nb\x1b[31m 'ü 划' \udcff: wrong"))
    assert message == "a\\nb\\x1b[31m 'ü 划' \\udcff: wrong"
