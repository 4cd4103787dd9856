"""The checks of the docs: generated pages are as the code says, links lead somewhere, what stands in backticks exists, lines are short.

`./headrace docs --check` runs them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.reference_pages import ROOT, WIDTH, made

ROOMS = ("infra", "feature_repo", "streaming", "training", "serving")


def stale() -> list[str]:
    """Generated files that are not as the code says."""
    return [
        f"{path.relative_to(ROOT)} is not what the code says: run `./headrace docs --write`"
        for path, text in made().items()
        if not path.exists() or path.read_text() != text
    ]


def pages() -> list[Path]:
    """All that people read."""
    return [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))


def dead_links() -> list[str]:
    """Links to files or headings that are not there; those to the internet are not asked."""
    found = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            place, _, anchor = target.partition("#")
            path = (page.parent / place).resolve() if place else page
            if not path.exists():
                found.append(f"{page.relative_to(ROOT)}: {target} leads nowhere")
            elif anchor and path.suffix == ".md" and anchor not in set(_anchors(path.read_text())):
                found.append(f"{page.relative_to(ROOT)}: {target} names no heading")
    return found


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _anchors(text: str) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.*)$", _without_code(text), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).strip().replace(" ", "-")


def long_lines() -> list[str]:
    """Lines that are too long and could be broken: not of a table or of a fenced block, and more than one word."""
    found = []
    for page in pages():
        fenced = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            fence = line.lstrip().startswith("```")
            fenced ^= fence
            words = re.sub(r"^\s*([*-]|\d+\.)\s", "", line).split()
            if len(line) > WIDTH and len(words) > 1 and not (fence or fenced or line.lstrip().startswith("|")):
                found.append(f"{page.relative_to(ROOT)}: line {number} has {len(line)} characters, at most {WIDTH} are easy to read")
    return found


def unknown_names() -> list[str]:
    """What stands in backticks in docs or docstrings as a module, file, command or setting of ours, and is none."""
    import typer

    from headrace import app
    from infra.settings import Settings

    known_commands = set(typer.main.get_command(app).commands) | {"help"}  # type: ignore[attr-defined]
    known_settings = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | ELSEWHERE
    found = []
    for where, text in _texts():
        for name in re.findall(r"`([^`\n]+)`", text):
            wrong = _wrong(name, known_commands, known_settings)
            if wrong:
                found.append(f"{where}: `{name}`: {wrong}")
    return found


ELSEWHERE = {
    "HEADRACE_FUZZ",
    "HEADRACE_DEBUG",
    "HEADRACE_REDIS_USER",
    "HEADRACE_REDIS_PASSWORD",
    "HEADRACE_SENTINEL_PASSWORD",
    "HEADRACE_REDIS_CONNECTION",
    "HEADRACE_SERVICE",
}
"""Variables that are no fields of the settings."""
HISTORY = ("docs/adr/0010-packages-of-the-rooms.md", "CHANGELOG.md", "docs/NEXT.md", "docs/benchmarks.md")
"""Pages that name what once was."""


def _texts() -> Iterator[tuple[str, str]]:
    for page in pages():
        if str(page.relative_to(ROOT)) not in HISTORY:
            yield str(page.relative_to(ROOT)), _without_code(page.read_text())
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "pb2" not in path.name:
                yield str(path.relative_to(ROOT)), "\n".join(re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL))


def _wrong(name: str, commands: set[str], settings: set[str]) -> str:
    module = re.fullmatch(rf"((?:{'|'.join(ROOMS)})(?:\.\w+)+)(?:\(\))?", name)
    if module:
        return "" if _importable(module[1]) else "there is no such module or name"
    path = re.fullmatch(rf"((?:{'|'.join(ROOMS)}|tests|docs)/[\w./-]+\.\w+)", name)
    if path:
        return "" if (ROOT / path[1]).exists() else "there is no such file"
    command = re.match(r"(?:\./)?headrace ([a-z][a-z-]*)", name)
    if command:
        return "" if command[1] in commands else "there is no such command"
    variable = re.match(r"(HEADRACE_[A-Z_]+)(?:=.*)?$", name)
    if variable and not variable[1].endswith("_"):
        return "" if variable[1] in settings else "there is no such setting"
    return ""


def _importable(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {}) or part in getattr(found, "__dataclass_fields__", {})
            found = getattr(found, part)
        return True
    return False


def faults() -> list[str]:
    """Everything that is wrong with the docs, a sentence each."""
    return [*stale(), *dead_links(), *unknown_names(), *long_lines()]
