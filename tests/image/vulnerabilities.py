"""`make vulnerabilities`: ask PyPI whether any of the pinned set is known to be vulnerable.

Exit status 1 where one is. An index that serves packages need not serve advisories, and pip-audit then finds
nothing and is content; so a release that is known to be vulnerable is asked about first, and where the answer
does not know it, the check says that it checked nothing.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
KNOWN = "jinja2==3.1.2"  # CVE-2024-22195, of January 2024


def main() -> int:
    """Check the pins of constraints.txt and torch; returns the exit status."""
    if "jinja2" not in _audit(KNOWN).stdout.partition("Skip Reason")[0].casefold():
        print(f"vulnerabilities: NOT CHECKED, since no advisories are served here (of {KNOWN} none was told)")
        return 0
    pins = (ROOT / "constraints.txt").read_text()
    answer = _audit(f"{pins}\ntorch==2.13.0\n", "--strict")
    print(answer.stdout or answer.stderr)
    return answer.returncode


def _audit(requirements: str, *options: str) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner=off"]
        return subprocess.run([*command, *options, "-r", file.name], capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
