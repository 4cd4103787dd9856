"""The code blocks of pages, and a shell that runs them as a reader would.

A block is run, written to the file that its `title` names, compared with what the block before it has printed (`text`), or only shown
(no language). What a test does otherwise stands in the page itself, in a comment before the block:

    <!-- test: skip, because REASON -->
    <!-- test: exits 1, because REASON -->
    <!-- test: "this" becomes "that", because REASON -->
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.settings import ROOT

RUN, WRITTEN, COMPARED, SHOWN = {"bash", "python"}, {"python", "yaml", "sql"}, {"text"}, {""}
"""Languages of blocks that are run; written to their `title`; compared with what was printed; looked at by people only."""
_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
_COMMENT = re.compile(r"<!-- test: (.*?) -->", re.DOTALL)
_BECOMES = re.compile(r'"([^"]+)" becomes "([^"]*)"')


class PageError(ValueError):
    """A page has a block that cannot be understood; the message names page and line."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its opening fence, from 1.
        title: the file that the reader writes it to; empty: none.
        directive: what the page says that the test does otherwise; empty: nothing.
    """

    page: str
    line: int
    language: str
    title: str
    text: str
    directive: str

    @property
    def skipped(self) -> bool:
        return self.directive.startswith("skip, ")

    @property
    def exit_code(self) -> int:
        found = re.match(r"exits (\d+), ", self.directive)
        return int(found[1]) if found else 0

    @property
    def command(self) -> str:
        """The text as it is run."""
        text = self.text
        for this, that in _BECOMES.findall(self.directive):
            if this not in text:
                raise PageError(f"{self.page}:{self.line}: there is no {this!r} in the block, of which a comment says what it becomes")
            text = text.replace(this, that)
        return text


def blocks(page: str, text: str) -> list[Block]:
    """Every fenced block of a page, in order.

    Raises:
        PageError: a language or a comment that nobody knows, a comment without a reason or a block, or a fence that is not closed.
    """
    found: list[Block] = []
    lines, directive, i = text.split("\n"), "", 0
    while i < len(lines):
        opened = _FENCE.fullmatch(lines[i])
        if opened:
            end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == opened[1]), None)
            if end is None:
                raise PageError(f"{page}:{i + 1}: the block is not closed")
            found.append(_block(page, i + 1, opened[2].strip(), "\n".join(lines[i + 1 : end]), directive))
            directive, i = "", end + 1
            continue
        if lines[i].startswith("<!--"):
            end = next((j for j in range(i, len(lines)) if "-->" in lines[j]), i)
            said = _COMMENT.fullmatch(" ".join(line.strip() for line in lines[i : end + 1]))
            if said and (directive or not _known(said[1])):
                raise PageError(f"{page}:{i + 1}: {said[1]!r} is nothing that the test knows, or has no reason")
            directive, i = said[1] if said else directive, end + 1
            continue
        if directive and lines[i].strip():
            raise PageError(f"{page}:{i + 1}: {directive!r} stands before no block")
        i += 1
    if directive:
        raise PageError(f"{page}: {directive!r} stands before no block")
    return found


def _known(directive: str) -> bool:
    what, because, why = directive.partition(", because ")
    return bool(because and why) and (what == "skip" or bool(re.fullmatch(r"exits \d+", what)) or bool(_BECOMES.search(what)))


def _block(page: str, line: int, info: str, text: str, directive: str) -> Block:
    language, _, rest = info.partition(" ")
    titled = re.fullmatch(r'title="([^"]+)"', rest.strip())
    if language not in RUN | WRITTEN | COMPARED | SHOWN or (rest.strip() and not titled):
        raise PageError(f"{page}:{line}: {info!r} is no block that the test knows")
    title = titled[1] if titled else ""
    if (title and language not in WRITTEN) or (language in WRITTEN - RUN and not title):
        raise PageError(f"{page}:{line}: a block of {language!r} needs a title if it is written to a file, and only then")
    return Block(page, line, language, title, text, directive)


def unseen(shown: str, printed: str) -> list[str]:
    """The lines of what a page shows that were not printed, in that order; `…` stands for anything, and spaces for any spaces."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    missed = []
    for line in shown.splitlines():
        wanted = ".*".join(re.escape(part) for part in " ".join(line.split()).split("…"))
        wanted = wanted.replace(r"\ .*", r".*").replace(r".*\ ", r".*")
        if wanted and wanted != ".*" and not any(re.fullmatch(wanted, one) for one in lines):
            missed.append(line)
            break  # the iterator is at its end: what follows would be missed too
    return missed


class Shell:
    """A terminal in a folder that looks like a fresh checkout: what a block exports is there for the next one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed = folder, ""
        for name in sorted(os.listdir(ROOT)):
            if not name.startswith(".") and name != "__pycache__":
                (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        self._kept = folder / ".environment"
        self.states = {folder / ".headrace"}
        self.anew()

    def anew(self) -> None:
        """A new terminal."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        self._environment = kept | {"COLUMNS": "100", "TERM": "dumb", "HEADRACE_STATE": str(self.folder / ".headrace")}
        self._kept.write_text("")

    def run(self, command: str, timeout_s: float = 600) -> int:
        """Run a script until its end; its exit code. What it prints is in `printed` then.

        It prints into a file, not a pipe: services that it starts may keep what they have inherited.
        """
        script = f"set -a; . {self._kept}; trap 'export -p > {self._kept}' EXIT; set -e\n{command}\n"
        log = self.folder / ".printed"
        with log.open("w") as out:
            running = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = running.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                code = running.wait()
            except BaseException:  # a Ctrl-C: the block has a session of its own, and would go on
                os.killpg(running.pid, signal.SIGKILL)
                raise
        self.printed = log.read_text(errors="replace")
        self.states |= {self.folder / name for name in re.findall(r'HEADRACE_STATE="([^"]+)"', self._kept.read_text())}
        return code

    def server(self) -> str:
        """The address of the state's server, as it is known so far."""
        found = re.findall(r'HEADRACE_STATE="([^"]+)"', self._kept.read_text())
        ports = self.folder / (found[-1] if found else ".headrace") / "ports.json"
        return f"127.0.0.1:{json.loads(ports.read_text()).get('http', 8000)}" if ports.exists() else "127.0.0.1:8000"

    def follow(self, block: Block, then: Block | None = None) -> None:
        """Do with a block what its reader would.

        Args:
            then: the next one, which may show that the server refuses something.

        Raises:
            AssertionError: it ended otherwise than the page says, printed something else, or was refused; the message has all of it.
        """
        where = f"{block.page}:{block.line}"
        if block.skipped or block.language in SHOWN:
            return
        if block.title:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n")
        elif block.language in COMPARED:
            missed = unseen(block.text, self.printed)
            assert not missed, f"{where}: the page shows {missed[0]!r}, but the block before has printed\n{self.printed[-6000:]}"
        else:
            command = block.command.replace("SERVER", self.server()) if "SERVER" in block.directive else block.command
            code = self.run(command if block.language == "bash" else f".venv/bin/python - <<'PYTHON'\n{command}\nPYTHON")
            assert code == block.exit_code, f"{where}: exit code {code}, not {block.exit_code}:\n{self.printed[-6000:]}"
            refused = "urn:headrace:problem" in self.printed and not (then and '"status":4' in then.text)
            assert not refused, f"{where}: the server refuses it, and the page does not say so:\n{self.printed[-6000:]}"

    def down(self) -> list[str]:
        """Stop what was started, whatever the test has come to; what is still there then."""
        for state in sorted(self.states):
            if state.exists():
                self.anew()
                self._environment["HEADRACE_STATE"] = str(state)
                self.run("./headrace down", 180)
        return list(self._left())

    def _left(self) -> Iterator[str]:
        import psutil

        for process in psutil.process_iter(["cmdline", "environ"]):
            words = [*(process.info["cmdline"] or []), (process.info["environ"] or {}).get("HEADRACE_STATE", "")]
            if any(str(self.folder) in word for word in words):
                yield f"{process.pid}: {' '.join(words)[:200]}"
