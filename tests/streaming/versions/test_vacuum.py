"""What is removed is needed by nobody: no version that is kept, no model, no writer."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.storage.store import Storage
from streaming.versions import adoption, data_version, table_version, vacuum
from streaming.versions.table_version import DataFile

HOUR_S, DAY_S = 3_600, 86_400
NOW_S = 2_000_000_000


def put(table: Path, name: str, age_s: float) -> DataFile:
    path = table / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return DataFile(name, 1, path.stat().st_size)


def version(table: Path, files: list[DataFile], age_s: float) -> int:
    """The number of the table's version of these files, which was made so long ago."""
    base = table_version.newest(table)
    made = table_version.commit(table, base, files, "a test")
    if made != base:
        dated = msgspec.structs.replace(made, made_us=round((NOW_S - age_s) * 1e6))
        (table / table_version.manifest_name(made.number)).write_bytes(msgspec.json.encode(dated))
    return made.number


histories = st.lists(st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(0, 60)), min_size=1, max_size=5)


@settings(max_examples=25)
@given(histories, st.sets(st.sampled_from("uvw")), st.sampled_from([0.5, 2.0]), st.integers(0, 60), st.sets(st.integers(0, 6)))
def test_a_history_loses_what_the_definition_says_and_nothing_else(
    history: list[tuple[set[str], int]], strays: set[str], stray_days: float, keep_days: int, needed: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        table, ages = root / "rides", sorted((age for _, age in history), reverse=True)
        adoption.adopt(table)
        made: dict[int, tuple[frozenset[str], float]] = {0: (frozenset(), 61)}
        for (names, _), age in zip(history, ages, strict=True):
            files = [put(table, f"{name}.parquet", 61 * DAY_S) for name in sorted(names)]
            number = version(table, files, age * DAY_S)
            made[number] = (frozenset(f.path for f in files), made[number][1] if number in made else age)
        for name in strays:
            put(table, f"{name}.parquet", stray_days * DAY_S)

        numbers = sorted(made)
        kept = set()  # the naive twin: by the words of the docstring
        for number in numbers:
            later = [n for n in numbers if n > number]
            if not later or made[later[0]][1] <= keep_days or number in needed:
                kept.add(number)
        files_kept = {path for n in kept for path in made[n][0]}
        there = {p.name for p in table.glob("*.parquet")}
        going = {name for name in there - files_kept if (stray_days if name[0] in "uvw" else 61) > 1}

        tables = [{"rides": n} for n in needed]
        found = vacuum.find(root, round((NOW_S - keep_days * DAY_S) * 1e6), NOW_S, tables)
        assert {name for one in found for name, _ in one.files} == going
        assert {n for one in found for n in one.versions} == set(numbers) - kept
        vacuum.remove(root, found)
        assert {p.name for p in table.glob("*.parquet")} == there - going
        for number in kept:
            assert all((table / path).is_file() for path in table_version.load(table, number).paths)
        assert vacuum.find(root, round((NOW_S - keep_days * DAY_S) * 1e6), NOW_S, tables) == []


def test_a_data_version_goes_with_a_version_that_it_names(tmp_path: Path) -> None:
    table = tmp_path / "rides"
    adoption.adopt(table)
    old, new = put(table, "old.parquet", 9 * DAY_S), put(table, "new.parquet", 9 * DAY_S)
    for files, age in (([old], 9 * DAY_S), ([new], 8 * DAY_S)):
        version(table, files, age)
        data_version.recorded(tmp_path, ["rides"])
    assert [v.number for v in data_version.listed(tmp_path)] == [1, 2]
    vacuum.remove(tmp_path, vacuum.find(tmp_path, round((NOW_S - 7 * DAY_S) * 1e6), NOW_S, []))
    assert [v.number for v in data_version.listed(tmp_path)] == [2]
    assert not (table / "old.parquet").exists()


def test_what_is_no_table_of_versions_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "theirs", "a.parquet", 99 * DAY_S)
    assert vacuum.find(tmp_path, 0, NOW_S, []) == []


def test_a_broken_manifest_stops_it_before_anything_goes(tmp_path: Path) -> None:
    table = tmp_path / "rides"
    adoption.adopt(table)
    version(table, [put(table, "a.parquet", 9 * DAY_S)], 9 * DAY_S)
    version(table, [put(table, "b.parquet", 9 * DAY_S)], 8 * DAY_S)
    (table / table_version.manifest_name(2)).write_bytes(b"{")
    with pytest.raises(table_version.VersionError, match="broken"):
        vacuum.find(tmp_path, round(NOW_S * 1e6), NOW_S, [])
    assert len(Storage(table).list()) >= 4
