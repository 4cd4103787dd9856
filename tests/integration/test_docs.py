"""The docs say what is there: generated pages are fresh, links lead somewhere, names name something; and who says otherwise is found."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jsonschema
import pytest
import yaml

from docs import checks
from feature_repo.spec.use_case import _Loader
from infra.settings import ROOT

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


def test_a_generated_page_that_was_edited_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr(checks, "made", lambda: {tmp_path / "a.md": "new", tmp_path / "b.md": "same", tmp_path / "c.md": "gone"})
    (tmp_path / "a.md").write_text("old")
    (tmp_path / "b.md").write_text("same")
    assert [one.split(" ")[0] for one in checks.stale()] == ["a.md", "c.md"]
    assert checks.write() == ["a.md", "c.md"]
    assert checks.stale() == []


@pytest.mark.parametrize("repo", ["feature_repo/flights", "tests/bikes/repo", "tests/meters/repo"])
def test_the_schemas_take_what_the_use_cases_say(repo: str) -> None:
    for kind, paths in (("ingest", [ROOT / repo / "ingest.yaml"]), ("model", sorted((ROOT / repo / "models").glob("*.yaml")))):
        for path in paths:
            said = yaml.load(path.read_text(), _Loader)
            jsonschema.Draft202012Validator(checks.schema_of(kind)).validate(_plain(said))


def test_the_schemas_refuse_a_typo() -> None:
    for kind in ("ingest", "model"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"tabels": {}}, checks.schema_of(kind))


def _plain(said: object) -> object:
    """As JSON has it: YAML makes dates of what looks like one."""
    if isinstance(said, dict):
        return {key: _plain(value) for key, value in said.items()}
    if isinstance(said, list):
        return [_plain(value) for value in said]
    return said if isinstance(said, str | int | float | bool | None) else str(said)
