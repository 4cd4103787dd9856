"""Vacuum, over random histories: what is kept is whole, and what goes is what the rules say, worked out the long way."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.versions import data_version, table_version, vacuum
from streaming.versions.pinned import reading, version_read
from streaming.versions.table_version import DataFile, TableVersion, VersionError

DAY_S = 86_400
NOW_S = 100 * DAY_S

history = st.lists(st.tuples(st.integers(0, 99), st.sets(st.integers(0, 6), max_size=4)), min_size=1, max_size=8)
"""Versions: the day they were made on, and the files they consist of."""


def _write(table: Path, name: str, day: float) -> None:
    path = table / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * (1 + len(name)))
    os.utime(path, (day * DAY_S, day * DAY_S))


def _make(root: Path, made: list[tuple[int, set[int]]], nameless: dict[str, float]) -> list[TableVersion]:
    """A table with this history: a file is as old as the first version that names it; versions are made in the order of their days."""
    versions, table = [], root / "t"
    for number, (day, files) in enumerate(sorted(made, key=lambda one: one[0]), 1):
        for i in files:
            if not (table / f"d/f{i}.parquet").exists():
                _write(table, f"d/f{i}.parquet", day)
        named = tuple(DataFile(f"d/f{i}.parquet", 1, 1) for i in sorted(files))
        versions.append(TableVersion(number, day * DAY_S * 1_000_000, "a test", "", named))
        _put(table / table_version.manifest_name(number), versions[-1])
        _put(root / data_version.record_name(number), data_version.DataVersion(number, versions[-1].made_us, {"t": number}))
    for name, day in nameless.items():
        _write(table, name, day)
    return versions


def _put(path: Path, what: Any) -> None:
    import msgspec

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(what))


def _naive(versions: list[TableVersion], needed: set[int], keep_days: int) -> set[int]:
    """Versions that stay: day by day, whichever was the newest on one of the kept days, and those that are needed."""
    kept = set(needed) & {v.number for v in versions} | {versions[-1].number}
    for v in versions:
        ends = [w.made_us for w in versions if w.number == v.number + 1]
        if ends and ends[0] >= (NOW_S - keep_days * DAY_S) * 1_000_000:
            kept.add(v.number)
    return kept


@settings(max_examples=60)
@given(history, st.sets(st.integers(1, 8)), st.integers(0, 100), st.dictionaries(st.sampled_from("abc"), st.sampled_from([10.0, 99.5])))
def test_what_a_kept_version_names_is_never_removed(
    made: list[tuple[int, set[int]]], needed: set[int], keep_days: int, nameless: dict[str, float]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        versions = _make(root, made, {f"d/{name}.parquet": day for name, day in nameless.items()})
        kept = _naive(versions, needed, keep_days)
        (one,) = vacuum.plan(root, {"t": frozenset(needed)}, NOW_S * 1_000_000, keep_days * DAY_S * 1_000_000)
        assert set(one.versions) == {v.number for v in versions} - kept
        before = {p.relative_to(root / "t").as_posix(): p.stat() for p in (root / "t" / "d").glob("*")}
        vacuum.remove(root, one)
        after = {p.relative_to(root / "t").as_posix() for p in (root / "t").glob("d/*")}
        named = {f.path for v in versions if v.number in kept for f in v.files}
        young = {name for name, info in before.items() if info.st_mtime >= NOW_S - DAY_S}
        assert after == named | young
        assert one.bytes == sum(info.st_size for name, info in before.items() if name not in after)
        assert table_version.numbers(root / "t") == sorted(kept)
        assert [v.number for v in data_version.listed(root)] == sorted(kept)
        for number in kept:
            with reading(root, data_version.find(root, number)):
                read = version_read(str(root / "t"))
            assert read == versions[number - 1]
            assert all((root / "t" / f.path).exists() for f in read.files)
        assert vacuum.plan(root, {"t": frozenset(needed)}, NOW_S * 1_000_000, keep_days * DAY_S * 1_000_000)[0].files == ()


def test_a_table_that_has_changed_since_is_left_alone(tmp_path: Path) -> None:
    (last,) = _make(tmp_path, [(1, {1})], {"d/old.parquet": 1.0})
    (one,) = vacuum.plan(tmp_path, {}, NOW_S * 1_000_000, 0)
    assert [f.name for f in one.files] == ["d/old.parquet"]
    assert one.is_most(0.4)
    assert not one.is_most(0.6)
    _put(tmp_path / "t" / table_version.manifest_name(2), TableVersion(2, last.made_us, "", "", last.files))
    with pytest.raises(VersionError, match="got a version since"):
        vacuum.remove(tmp_path, one)
    assert (tmp_path / "t/d/old.parquet").exists()


def test_a_file_that_was_put_there_again_meanwhile_stays(tmp_path: Path) -> None:
    _make(tmp_path, [(1, {1})], {"d/old.parquet": 1.0, "d/older.parquet": 1.0})
    (one,) = vacuum.plan(tmp_path, {}, NOW_S * 1_000_000, 0)
    os.utime(tmp_path / "t/d/old.parquet")
    vacuum.remove(tmp_path, one)
    assert {p.name for p in (tmp_path / "t/d").iterdir()} == {"f1.parquet", "old.parquet"}


def test_what_cannot_be_read_is_not_guessed(tmp_path: Path) -> None:
    _make(tmp_path, [(1, {1}), (2, {2})], {})
    (tmp_path / "t" / table_version.manifest_name(1)).write_bytes(b"{")
    with pytest.raises(VersionError, match=r"manifest _manifests/0{19}1\.json is broken"):
        vacuum.plan(tmp_path, {}, NOW_S * 1_000_000, 0)


def test_of_writers_who_make_the_next_version_one_does(tmp_path: Path) -> None:
    (base,) = _make(tmp_path, [(1, set())], {"a": 1.0, "b": 1.0})
    a, b = (DataFile(name, 1, 2) for name in "ab")
    assert table_version.commit(tmp_path / "t", base, [a], "one").number == 2
    assert table_version.commit(tmp_path / "t", base, [a], "the same rows").number == 2
    with pytest.raises(VersionError, match="somebody else has made version 2 meanwhile, from one"):
        table_version.commit(tmp_path / "t", base, [b], "another")
    with pytest.raises(VersionError, match="gone is not there as it was written"):
        table_version.commit(tmp_path / "t", base, [DataFile("gone", 1, 2)], "nothing")
