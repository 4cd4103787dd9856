"""Training sets that can be derived again: the same bytes after late rows, and names for what was slipped in."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.versions import table_version
from tests.bikes.platform import Bikes
from training.data import manifest
from training.data.column_moments import micros
from training.data.training_set import build, read, rebuild


@pytest.fixture
def own(bikes: Bikes, tmp_path: Path) -> Any:
    """The second use case's tables, copied, so that rows can be added."""
    shutil.copytree(bikes.settings.offline_root, tmp_path / "offline")
    config = bikes.case.store.config.offline_store
    before, config.root = config.root, str(tmp_path / "offline")
    yield bikes.settings.model_copy(update={"state": tmp_path})
    config.root = before


def add(folder: Path, day: str, change: dict[str, Any]) -> None:
    """One more row in a day's partition, like its first one but for `change`: the table's next version."""
    base = table_version.newest(folder)
    assert base is not None
    path = folder / next(f.path for f in base.files if f.day == day)
    row = pq.read_table(path).slice(0, 1)
    for name, value in change.items():
        place = row.schema.get_field_index(name)
        row = row.set_column(place, row.schema.field(name), pa.array([value], row.schema.field(name).type))
    late = path.with_name(f"late-{uuid.uuid4().hex}.parquet")
    pq.write_table(row, late)
    one = table_version.DataFile(str(late.relative_to(folder)), 1, late.stat().st_size, day)
    table_version.commit(folder, base, [*base.files, one], "a test")


def test_late_rows_change_nothing_and_rows_slipped_in_are_named(bikes: Bikes, own: Any) -> None:
    import datetime as dt

    made = build(bikes.spark, bikes.case, own, bikes.spec)
    said = manifest.load(made.path)
    assert said.identity == made.identity
    assert said.content == made.hash
    assert set(said.partitions) == {"rides", "docks", "requests"}
    assert len(said.partitions["rides"]) >= 14
    assert rebuild(bikes.spark, bikes.case, own, bikes.spec, made.path) is None

    # known only after the cut-off: the same bytes
    later = dt.datetime.fromtimestamp(said.known_upto_us / 1e6, dt.UTC) + dt.timedelta(hours=1)
    add(own.offline_root / "rides", "2021-03-05", {"reported": later, "kilometres": 1e6})
    assert rebuild(bikes.spark, bikes.case, own, bikes.spec, made.path) is None

    # slipped in below the cut-off: the partition, and the examples whose windows it falls into
    began = dt.datetime(2021, 3, 5, 10, 0, tzinfo=dt.UTC)
    add(own.offline_root / "rides", "2021-03-05", {"began": began, "reported": began, "kilometres": 1e6})
    found = rebuild(bikes.spark, bikes.case, own, bikes.spec, made.path)
    assert found is not None
    assert [line.split(":")[0] for line in found.partitions] == ["rides 2021-03-05"]
    assert found.changed > 0
    assert (found.added, found.gone) == (0, 0)
    names = {name for _, cells in found.rows for name, _, _ in cells}
    assert "rides_by_station__max_km_1d" in names
    assert all(name.startswith("rides_by") for name in names)


def test_examples_of_an_interval_are_left_out_and_nothing_else_changes(bikes: Bikes, own: Any) -> None:
    moment = bikes.spec.spine.timestamp
    whole = build(bikes.spark, bikes.case, own, bikes.spec)
    assert b"left_out" not in manifest.path_of(whole.path).read_bytes(), "where nothing is, the manifest is what it was"
    rows = read(whole.path)
    at = micros(rows, moment)
    first, last = int(at[len(at) // 3]), int(at[len(at) // 2])
    made = build(bikes.spark, bikes.case, own, bikes.spec, left_out=[(first, last), (0, 1)])
    outside = (at < first) | (at > last)
    assert (made.left_out, made.left_out_rows) == (((first, last), (0, 1)), int((~outside).sum()))
    assert made.left_out_rows > 1
    assert read(made.path).equals(rows.filter(pa.array(outside))), "both ends are in it; the values of what is kept are as they were"
    assert made.identity != whole.identity
    assert rebuild(bikes.spark, bikes.case, own, bikes.spec, made.path) is None, "made again, they are left out again"


def test_identity_is_of_definitions_spine_cutoffs_and_split(bikes: Bikes) -> None:
    def identity(**changed: Any) -> str:
        base = {"definitions": "d", "spec": bikes.spec, "known_upto_us": 5}
        return str(manifest.identity(**(base | changed))["identity"])

    spine = bikes.spec.spine.model_copy(update={"label": "other"})
    split = bikes.spec.split.model_copy(update={"test": None})
    others = [
        identity(definitions="e"),
        identity(known_upto_us=6),
        identity(spec=bikes.spec.model_copy(update={"spine": spine})),
        identity(spec=bikes.spec.model_copy(update={"split": split})),
        identity(left_out=[(1, 2)]),
    ]
    assert len({identity(), *others}) == 6
    assert identity(left_out=[]) == identity()
    assert identity() == identity()
