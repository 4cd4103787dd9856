"""Batch scoring's target: nothing that this command did not write is ever replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.batch.score import MARKER, ScoreError, _put, check_target


def _result(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "part-0.parquet").write_text(text)
    (folder / MARKER).write_text("{}")
    return folder


def test_scores_are_written_where_nothing_is_or_over_their_own(tmp_path: Path) -> None:
    _put(_result(tmp_path / ".out.1.new", "first"), tmp_path / "out")
    _put(_result(tmp_path / ".out.2.new", "second"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    _put(_result(tmp_path / ".empty.3.new", "third"), tmp_path / "empty")
    assert (tmp_path / "out" / "part-0.parquet").read_text() == "second"
    assert (tmp_path / "empty" / "part-0.parquet").read_text() == "third"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "out"]


@pytest.mark.parametrize("what", ["folder", "file", "link", "another table", "no parent"])
def test_a_target_that_is_somebody_elses_is_left_as_it_is(tmp_path: Path, what: str) -> None:
    target, precious = tmp_path / "out", tmp_path / "out" / "precious.txt"
    if what == "folder":
        target.mkdir()
        precious.write_text("mine")
    elif what == "file":
        target.write_text("mine")
    elif what == "link":
        _result(tmp_path / "elsewhere", "mine")
        target.symlink_to(tmp_path / "elsewhere")
    elif what == "another table":
        target.mkdir()
        (target / "part-0.parquet").write_text("mine")
        (target / "_SUCCESS").write_text("")
    else:
        target = tmp_path / "none" / "out"
    before = sorted((p, p.is_file() and p.read_bytes()) for p in tmp_path.rglob("*"))
    with pytest.raises(ScoreError, match="--output"):
        check_target(target)
    assert sorted((p, p.is_file() and p.read_bytes()) for p in tmp_path.rglob("*")) == before


def test_what_comes_to_lie_in_the_target_while_rows_are_scored_is_not_replaced(tmp_path: Path) -> None:
    partial, target = _result(tmp_path / ".out.1.new", "scores"), tmp_path / "out"
    check_target(target)
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(ScoreError):
        _put(partial, target)
    assert (target / "precious.txt").read_text() == "mine"
