"""The journal of the loop's decisions."""

from __future__ import annotations

from pathlib import Path

from feature_repo.records.decisions import Decision, Journal


def test_a_journal_line_cut_short_by_a_kill_is_written_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "m")
    journal.write(Decision("a/triggered", 1, 2, "triggered", "x"))
    journal.path.write_bytes(journal.path.read_bytes() + b'{"id":"a/tra')
    again = Journal(tmp_path, "m")
    assert [d.id for d in again.read()] == ["a/triggered"]
    assert again.write(Decision("a/trained", 1, 2, "trained", "y"))
    assert not again.write(Decision("a/trained", 1, 2, "trained", "y"))
    assert [d.id for d in Journal(tmp_path, "m").read()] == ["a/triggered", "a/trained"]
