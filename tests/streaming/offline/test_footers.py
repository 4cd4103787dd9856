from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from streaming.aggregation.windows import DAY
from streaming.join.in_process import read_events_here
from streaming.offline.footers import day_of, extent
from streaming.schema.feature_view import Feature, View

FIRST = -62_135_596_800_000_000  # the year 1


@given(st.datetimes(timezones=st.just(UTC)))
def test_the_day_of_a_moment_is_the_calendars(at: datetime) -> None:
    assert day_of((at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)) == at.date()


@given(st.integers())
def test_a_moment_that_no_calendar_has_is_on_its_first_or_last_day(us: int) -> None:
    assert date.min <= day_of(us) <= date.max
    assert day_of(us + DAY) >= day_of(us)


def test_a_table_is_read_for_moments_before_time(tmp_path: Path) -> None:
    view = View("p", "v", (Feature("k", "int64"),), "t", "at", None, (), 0, (Feature("x", "double"),), None, None)
    (tmp_path / "t" / "day=2024-05-01").mkdir(parents=True)
    at = datetime(2024, 5, 1, tzinfo=UTC)
    table = pa.table({"k": [1], "at": pa.array([at], pa.timestamp("us", "UTC")), "x": [0.5]})
    pq.write_table(table, tmp_path / "t" / "day=2024-05-01" / "part-0.parquet")
    assert extent(view, tmp_path, FIRST - 7 * DAY, FIRST).days == 0
    assert read_events_here(view, tmp_path, FIRST - 7 * DAY, FIRST).num_rows == 0
    assert read_events_here(view, tmp_path, FIRST - 7 * DAY, 2**62).num_rows == 1
