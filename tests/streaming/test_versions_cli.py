"""`headrace versions` and `headrace vacuum`, as a person meets them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import headrace
from infra.settings import load_settings
from streaming.versions import adoption, data_version, table_version


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An offline store whose table had one file of 10 bytes, then another of 90, each two days old."""
    for name in ("HEADRACE_REGISTRY_URL", "HEADRACE_OFFLINE_ROOT", "HEADRACE_REDIS_CONNECTION", "HEADRACE_REPO"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the commands export theirs: what was there comes back
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    load_settings.cache_clear()
    root = tmp_path / "offline"
    adoption.adopt(root / "rides")
    for name, size in (("old", 10), ("new", 90)):
        path = root / "rides" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
        base = table_version.newest(root / "rides")
        table_version.commit(root / "rides", base, [table_version.DataFile(path.name, 1, size)], "a test")
        data_version.recorded(root, ["rides"])
    yield root
    load_settings.cache_clear()


def said(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(headrace.app, list(arguments))
    return done.exit_code, " ".join(done.output.split())


def set_to(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", value)
    load_settings.cache_clear()


def test_versions_are_listed_and_the_old_one_goes_only_when_asked(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = said("versions")
    assert code == 0
    assert "rides 1" in text
    assert "rides 2" in text
    assert said("vacuum", "--yes")[0] == 0
    assert (offline / "rides" / "old.parquet").exists(), "it was the newest until a moment ago"
    set_to(monkeypatch, keep_versions_days="0")
    code, text = said("vacuum")
    assert (code, (offline / "rides" / "old.parquet").exists()) == (0, True)
    assert "nothing was removed: this is what --yes would do" in text
    assert said("vacuum", "--yes")[0] == 0
    assert not (offline / "rides" / "old.parquet").exists()
    assert (offline / "rides" / "new.parquet").exists()
    assert [v.number for v in data_version.listed(offline)][-1] == 2
    assert "rides 1" not in said("versions")[1]


def test_most_of_a_table_does_not_go_by_itself(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to(monkeypatch, keep_versions_days="0", delete_share="0.05")
    code, text = said("vacuum", "--yes")
    assert code == 1
    assert "--allow-most" in text
    assert (offline / "rides" / "old.parquet").exists()
    assert said("vacuum", "--yes", "--allow-most")[0] == 0
    assert not (offline / "rides" / "old.parquet").exists()


def test_a_url_in_a_folders_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", "s3://bucket/state")
    load_settings.cache_clear()
    with pytest.raises(ValueError, match="this must be a folder on this machine"):
        load_settings()
    load_settings.cache_clear()
    assert not Path("s3:").exists()
