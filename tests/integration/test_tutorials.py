"""The README and the tutorials do what they say: every block is taken from the page and run, on real services, as its reader would."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import ROOT
from tests.integration.pages import Block, Shell, blocks

TUTORIALS = "docs/tutorials"
PAGES = ["README.md", *sorted(f"{TUTORIALS}/{path.name}" for path in (ROOT / TUTORIALS).glob("*.md"))]
JOURNEYS = {
    "the demo": ["README.md", f"{TUTORIALS}/first-prediction.md"],
    "the pumps": [
        f"{TUTORIALS}/{name}.md" for name in ("your-own-data", "backfill-and-stream", "release-a-version", "a-week-with-the-loop")
    ],
}
"""Pages that are followed one after another, in one folder."""

OTHERWISE = [
    'README.md: "demo " becomes "demo --days 1 --keep ", "race test" becomes "race version"',
    'README.md: "localhost:8000" becomes "SERVER"',
    "README.md: skip",
    f"{TUTORIALS}/first-prediction.md: skip",
    f"{TUTORIALS}/release-a-version.md: exits 1",
]
"""All that the test does otherwise than the pages say; each has its reason in the page."""


def of(page: str) -> list[Block]:
    return blocks(page, (ROOT / page).read_text())


@pytest.fixture
def shell() -> Iterator[Shell]:
    folder = Path(tempfile.mkdtemp(prefix="hr-"))  # short: sockets lie below it
    made = Shell(folder)
    left = ["never stopped"]
    try:
        yield made
    finally:
        left = made.down()
        shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def test_what_is_not_run_as_it_stands_is_known() -> None:
    said = [f"{block.page}: {block.directive.partition(', because ')[0]}" for page in PAGES for block in of(page) if block.directive]
    assert sorted(said) == sorted(OTHERWISE)


def test_what_a_skipped_block_does_is_done_by_another_one() -> None:
    every = [block for page in PAGES for block in of(page) if block.language == "bash"]
    done = {command for block in every if not block.skipped for command in commands(block)}
    assert [(block.page, block.line, commands(block) - done) for block in every if block.skipped and commands(block) - done] == []


def commands(block: Block) -> set[str]:
    """The commands of ours that a block runs, such as `./headrace train`."""
    return set(re.findall(r"\./headrace ([a-z-]+)", block.command))


@pytest.mark.integration
@pytest.mark.journey
@pytest.mark.parametrize("journey", JOURNEYS)
def test_a_reader_sees_what_the_pages_say(journey: str, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for page in JOURNEYS[journey]:
        shell.anew()
        followed = of(page)
        for block, then in zip(followed, [*followed[1:], None], strict=True):
            if block.directive:
                with capsys.disabled():
                    print(f"\n{block.page}:{block.line}: {block.directive}")
            shell.follow(block, then)
