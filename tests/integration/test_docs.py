"""The docs say what is there: generated pages are fresh, links lead somewhere, names name something; and who says otherwise is found."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

import headrace
from docs import checks, reference_pages
from feature_repo.records.prediction import STATUSES
from feature_repo.spec.use_case import UseCase
from feature_repo.spec.yaml_file import Loader
from infra.cli import EXIT_CODES, OWN_EXIT_CODES
from infra.settings import ROOT
from serving.features import decoder
from serving.handlers import catalogue, feast, lookup

pytestmark = pytest.mark.integration


def test_nothing_is_wrong_with_the_docs_and_looking_changes_nothing() -> None:
    before, folders = dict(os.environ), set(Path(tempfile.gettempdir()).glob("headrace-docs-*"))
    assert checks.faults() == []
    assert dict(os.environ) == before
    assert set(Path(tempfile.gettempdir()).glob("headrace-docs-*")) == folders


def test_a_page_that_says_what_is_not_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n[there](page.md#one) [gone](gone.md) [no heading](#two) `headrace stauts` `HEADRACE_STAET` `serving.http.app.buidl` "
        "`serving/gone.py` `headrace status` `HEADRACE_STATE=x` `serving.http.app.build_app` `serving/http/app.py`\n"
    )
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr(checks, "pages", lambda: [page])
    assert checks.dead_links() == ["page.md: gone.md leads nowhere", "page.md: #two names no heading"]
    (tmp_path / "serving" / "http").mkdir(parents=True)
    (tmp_path / "serving" / "http" / "app.py").touch()
    assert [one.split("`")[1] for one in checks.unknown_names()] == [
        "headrace stauts",
        "HEADRACE_STAET",
        "serving.http.app.buidl",
        "serving/gone.py",
    ]


def test_a_line_that_is_too_long_is_found_unless_it_cannot_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, word, long = tmp_path / "page.md", "x" * 120, "word " * 30
    page.write_text(
        f"{'a' * 49} {'b' * 50}\n{'a' * 50} {'b' * 50}\n* {word}\n  1. [{word}]({word})\n| {long}|\n```bash\n{long}\n```\n{long}\n* {long}\n"
    )
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr(checks, "pages", lambda: [page])
    assert [one.split(" has ")[0] for one in checks.long_lines()] == ["page.md: line 2", "page.md: line 9", "page.md: line 10"]


def test_a_generated_page_that_was_edited_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checks, reference_pages):
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "made", lambda: {tmp_path / "a.md": "new", tmp_path / "b.md": "same", tmp_path / "c.md": "gone"})
    (tmp_path / "a.md").write_text("old")
    (tmp_path / "b.md").write_text("same")
    assert [one.split(" ")[0] for one in checks.stale()] == ["a.md", "c.md"]
    assert reference_pages.write() == ["a.md", "c.md"]
    assert checks.stale() == []


def test_a_page_is_wrapped_outside_tables_headings_and_fences_and_no_code_span_is_cut() -> None:
    long = "word " * 30
    kept = f"# {long}".rstrip(), f"| {long}|", f"```bash\n{long.rstrip()}\n```"
    page = reference_pages.wrapped("\n".join(["one", "two", *kept, "", f"* {long}`a span of words`", f"* {long}"]))
    assert "one two" in page
    assert all(one in page for one in kept)
    assert "`a span of words`" in page
    rest = page.replace(kept[0], "").replace(kept[1], "").replace(long.rstrip() + "\n```", "")
    assert max(map(len, rest.splitlines())) <= reference_pages.WIDTH
    assert [line[:2] for line in page.split("\n\n")[-1].splitlines()] == ["* ", "  ", "* ", "  "]


def _specs() -> list[tuple[str, Path]]:
    """Every `ingest.yaml` and `models/*.yaml` of the repository, and which of them it is."""
    found = [(kind, path) for room in ("feature_repo", "tests") for kind, pattern in KINDS.items() for path in (ROOT / room).rglob(pattern)]
    assert len(found) >= 6
    return found


KINDS = {"ingest": "ingest.yaml", "model": "models/*.yaml"}


@pytest.mark.parametrize(("kind", "path"), _specs(), ids=lambda one: str(one).removeprefix(f"{ROOT}/"))
def test_every_spec_names_its_schema_in_the_first_line_and_keeps_to_it(kind: str, path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve() == reference_pages.SCHEMAS / f"{kind}.schema.json"
    said = yaml.load(path.read_text(), Loader)
    jsonschema.Draft202012Validator(json.loads((reference_pages.SCHEMAS / f"{kind}.schema.json").read_text())).validate(_plain(said))


@pytest.mark.parametrize("repo", ["feature_repo/flights", "tests/bikes/repo", "tests/meters/repo"])
def test_comments_in_a_spec_change_nothing_of_what_is_read_and_so_no_hash(repo: str, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(ROOT / repo, folder)
    for pattern in KINDS.values():
        for path in folder.rglob(pattern):
            path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")))
            assert "yaml-language-server" not in path.read_text()
    assert UseCase(folder).ingest == UseCase(ROOT / repo).ingest
    assert UseCase(folder).models == UseCase(ROOT / repo).models


def test_the_schemas_refuse_a_typo() -> None:
    for kind in ("ingest", "model"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"tabels": {}}, reference_pages.schema_of(kind))


def _raised(command: Callable[..., Any]) -> set[int]:
    """Exit codes that a command's function, and what it calls in its own module, name when they end it."""
    module = {f.name: f for f in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(command)))) if isinstance(f, ast.FunctionDef)}  # type: ignore[arg-type]
    seen, left, codes = set[str](), [command.__name__], set[int]()
    while left:
        name = left.pop()
        seen.add(name)
        for node in ast.walk(module[name]):
            if isinstance(node, ast.Name) and node.id in module and node.id not in seen:
                left.append(node.id)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) == "typer.Exit":
                codes |= {int(one) for one in re.findall(r"\b\d+\b", ast.unparse(node.exc.args[0]))}
    return codes - {0}


def test_the_table_of_exit_codes_says_each_code_that_a_command_names_and_no_other() -> None:
    commands = {
        one.name or one.callback.__name__.replace("_", "-"): one.callback for one in headrace.app.registered_commands if one.callback
    }
    assert set(OWN_EXIT_CODES) <= set(commands)
    found = {name: _raised(command) for name, command in commands.items()}
    elsewhere = {"test": {1, 2, 3, 4, 5}}  # pytest takes the process's place
    assert {name: codes for name, codes in (found | elsewhere).items() if codes} == {n: set(own) for n, own in OWN_EXIT_CODES.items()}
    assert {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)} | {0, 1, 2} == set(EXIT_CODES)


@pytest.mark.parametrize("command", ["backfill", "skew"])
def test_a_command_s_help_tells_its_own_exit_codes(command: str) -> None:
    said = CliRunner().invoke(headrace.app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert all(f"{code}: {what}" in said for code, what in OWN_EXIT_CODES[command].items())


def test_the_statuses_are_those_that_serving_writes_shows_and_hands_to_feast() -> None:
    assert "".join(s.letter for s in STATUSES) == decoder.LETTERS + "r"
    assert {s.letter: s.name for s in STATUSES} == lookup.STATUS
    assert set(feast.STATUS) == set(decoder.LETTERS)
    page = reference_pages.statuses()
    assert all(f"urn:headrace:problem:{kind}" in page for kind in ("internal", "foreign-origin", "other-host", "late", "unavailable"))
    assert "* No model answers (…).\n" in page
    models = re.search(r'"status": "(\w+)" if .* else "(\w+)" if .* else "(\w+)"', inspect.getsource(catalogue.summary))
    assert models is not None
    assert all(f"**{word}**" in page for word in models.groups())


def _plain(said: object) -> object:
    """As JSON has it: YAML makes dates of what looks like one."""
    if isinstance(said, dict):
        return {key: _plain(value) for key, value in said.items()}
    if isinstance(said, list):
        return [_plain(value) for value in said]
    return said if isinstance(said, str | int | float | bool | None) else str(said)
