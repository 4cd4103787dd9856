"""Takes the pictures of the docs: `.venv/bin/python docs/screenshots.py`, after a `./headrace demo`. Needs Chromium.

A picture shows the report of the run that lies in the state folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def take(page: Path, picture: Path, width: int = 1300, height: int = 1000) -> None:
    """A picture of a page, as headless Chromium shows it.

    Raises:
        SystemExit: there is no Chromium, or no page.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None or not page.is_file():
        sys.exit("install Chromium (Debian: chromium)" if browser is None else f"there is no {page}: run `./headrace demo` first")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        where = [f"--user-data-dir={profile}", f"--screenshot={picture}", f"--window-size={width},{height}", page.resolve().as_uri()]
        subprocess.run([browser, "--headless", "--no-sandbox", *QUIET, *where], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    state = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".headrace"
    take(state / "report.html", ROOT / "docs" / "images" / "report.png")
