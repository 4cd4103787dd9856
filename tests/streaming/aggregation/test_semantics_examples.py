"""The worked examples of docs/semantics.md and docs/semantics/: each number is computed, and the page has to hold it."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pytest

from infra.settings import ROOT
from streaming.aggregation import sketches, tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.functions.table import EXAMPLES
from streaming.aggregation.windows import DAY, HOUR, MINUTE, Aggregation, Layout, declared, default_hop
from streaming.join.point_in_time import Events, Spine, aggregate, latest

INDEX, TIME, WINDOWS, LATEST, SKEW, TYPES = "semantics", *(f"semantics/{name}" for name in ("time", "windows", "latest", "skew", "types"))
Row = tuple[int, int, float]
"""Event time, known time, value."""


def page(name: str) -> str:
    """A page's text on one line, so that it does not matter where lines are broken."""
    return re.sub(r"\s+", " ", (ROOT / "docs" / f"{name}.md").read_text())


def moment(text: str) -> int:
    """Of "12:04", microseconds since the epoch, on a day that begins a week."""
    hour, minute = map(int, text.split(":"))
    return 16_002 * DAY + hour * HOUR + minute * MINUTE


def table(name: str, first: str) -> list[list[str]]:
    """The cells below the header of the table of a page whose header begins with this cell."""
    lines = (ROOT / "docs" / f"{name}.md").read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    found = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def departures() -> list[Row]:
    rows = table(WINDOWS, "event time")
    assert len(rows) == 5
    return [(moment(event), moment(known), math.nan if delay == "null" else float(delay)) for event, known, delay in rows]


def window(function: str, rows: list[Row], at: int, length: int = HOUR) -> float:
    """A window's value; the join and the reader of tiles have to agree on it."""
    layout = Layout.of([Aggregation("f", "x", function, length)])
    event, known = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    values, key = np.array([row[2] for row in rows]), np.zeros(len(rows), dtype=np.int64)
    columns = {"x": values, "#x": sketches.hashed(pa.array(values))}
    joined = float(aggregate(layout, Events(key, event, known), columns, Spine(np.array([0]), np.array([at])))["f"][0])
    seen = known <= at
    parts = [
        next(tiles.build(level, key[seen], event[seen], known[seen], {n: c[seen] for n, c in columns.items()}).slices(1))
        for level in tiles.levels_of(layout)
    ]
    read = Finisher(layout)(tiles.encode(tiles.Header(tiles.fingerprint(layout)), parts), at)[0]
    assert read == joined or (math.isnan(read) and math.isnan(joined))
    return joined


@pytest.mark.parametrize(
    ("functions", "value"),
    [
        (("count",), "2"),
        (("sum",), "50"),
        (("mean",), "25"),
        (("min", "max"), "10 and 40"),
        (("range",), "30"),
        (("std",), "21.2"),
        (("first", "last"), "10 and 40"),
        (("ewma_30m",), "29.2 (`ewma_30m`)"),
        (("count_distinct",), "2"),
        (("p50",), "10.07 (`p50`)"),
    ],
)
def test_a_function_of_the_table(functions: tuple[str, ...], value: str) -> None:
    found = [window(function, departures(), moment("13:07")) for function in functions]
    decimals = len(value.split(" ")[0].partition(".")[2])
    assert [f"{one:.{decimals}f}" for one in found] == value.split(" (")[0].split(" and ")
    shown = {"ewma_30m": "ewma_6h"}.get(functions[0], functions[0])
    assert [cells[-1] for cells in table(INDEX, "function") if f"`{shown}`" in cells[0].split(" (")[0]] == [value]


def test_which_events_a_window_covers() -> None:
    rows, said = departures(), page(WINDOWS)
    for what in (
        "The window begins there. * 12:06 is in, although it is 61 minutes old. 12:04 is out.",
        "What is left: 10 and 40. The mean is 25.",
        "Asked again at 13:10, the window begins at 12:10. It holds 40 and 20, so the mean is 30.",
        "Asked at 14:40 it holds nothing: `count` is 0 and `mean` is null.",
    ):
        assert what in said
    assert [window("mean", rows, moment(at)) for at in ("13:07", "13:10")] == [25, 30]
    assert (window("count", rows, moment("14:40")), math.isnan(window("mean", rows, moment("14:40")))) == (0, True)
    assert (window("min", rows, moment("13:07")), window("min", rows, moment("13:04"))) == (10, 3)


def test_how_long_a_hop_is() -> None:
    assert table(WINDOWS, "window") == [
        ["shorter than 12 hours", "5 minutes"],
        ["shorter than 12 days", "1 hour"],
        ["from 12 days on", "1 day"],
    ]
    longest = [12 * HOUR - 1, 12 * DAY - 1, 12 * DAY]
    assert [default_hop(length) for length in longest] == [5 * MINUTE, HOUR, DAY]
    assert [default_hop(length) for length in (12 * HOUR, 1)] == [HOUR, 5 * MINUTE]


def test_an_empty_window() -> None:
    """The sentence names every function that has a value for it, of all in the table."""
    found = {function: window(function, [], moment("13:07")) for function in EXAMPLES}
    valued = [function for function, value in found.items() if not math.isnan(value)]
    assert all(found[function] == 0 for function in valued)
    (said,) = re.findall(r"Where nothing is left, (.*?) are 0, and all others are null", page(WINDOWS))
    assert sorted(re.findall(r"`(\w+)`", said)) == sorted(valued)
    assert math.isnan(window("std", [(moment("13:00"), moment("13:00"), 5.0)], moment("13:07")))


def test_ties() -> None:
    both = [(moment("12:30"), moment("12:30"), 40.0), (moment("12:30"), moment("12:45"), 35.0)]
    assert [window(f, both, moment("12:45")) for f in ("last", "first")] == [35, 40]
    assert window("last", both, moment("12:44")) == 40
    assert "From 12:45 on, `last` is 35: the row that was known later. `first` is 40." in page(WINDOWS)


def test_sums() -> None:
    def both_ways(*values: float) -> set[float]:
        layout = Layout.of([Aggregation("f", "x", "sum", HOUR)])
        none = np.zeros(3, dtype=np.int64)
        a, b, c = np.split(layout.prepare({"x": np.array(values)}, none, none), 3, axis=1)
        ways = layout.merge(layout.merge(a, b), c), layout.merge(a, layout.merge(b, c))
        return {float(layout.finish(layout.aggregations[0], state)[0]) for state in ways}

    said = page(WINDOWS)
    assert f"`(0.1 + 0.2) + 0.3` is {(0.1 + 0.2) + 0.3}, and `0.1 + (0.2 + 0.3)` is {0.1 + (0.2 + 0.3)}" in said
    assert both_ways(0.1, 0.2, 0.3) == {0.6}
    assert f"`1e16 + 1 - 1e16` is {1e16 + 1 - 1e16:.0f}." in said
    assert both_ways(1e16, 1.0, -1e16) == {1.0}
    assert "In the examples both orders give 0.6, and `1e16 + 1 - 1e16` is 1." in said


def test_half_lives() -> None:
    rows = [(moment("12:00"), moment("12:00"), 10.0), (moment("18:00"), moment("18:00"), 40.0)]
    assert [window("ewma_6h", rows, moment(at), DAY) for at in ("18:00", "23:00")] == [30, 30]
    assert "The answer is `(1 × 10 + 2 × 40) / 3` = 30. It is still 30 at 23:00" in page(WINDOWS)


def test_distinct_counts() -> None:
    rows = [(moment("12:00") + i, moment("12:00") + i, float(i)) for i in range(5000)]
    counts = [round(window("count_distinct", rows[:n], moment("13:00"))) for n in (1024, 5000)]
    assert "1,024 different values give {:,}. 5,000 different values (0, 1, … 4,999) give {:,}.".format(*counts) in page(WINDOWS)
    assert abs(counts[1] / 5000 - 1) < 3 * 0.031
    assert sketches.hash_of(8) == sketches.hash_of(8.0)


def test_quantiles() -> None:
    rows = [(moment("12:00") + i, moment("12:00") + i, float(i)) for i in range(1, 101)]
    found = window("p95", rows, moment("13:00"))
    assert f"Of the numbers 1 to 100, `p95` is {found:.2f}. The exact value at its rank is {math.floor(0.95 * 99) + 1}." in page(WINDOWS)
    assert f"the `p50` of 10 and 40 has rank 0 and is {window('p50', departures(), moment('13:07')):.2f}, not 25" in page(WINDOWS)


def test_visibility() -> None:
    rows = table(TIME, "event")
    event, known = (np.array([moment(cells[i]) for cells in rows]) for i in (1, 2))
    key = np.zeros(len(rows), dtype=np.int64)

    def seen(at: str) -> str:
        """The events that are visible, each found as the only one that there is."""
        spine = Spine(np.array([0]), np.array([moment(at)]))
        alone = [latest(Events(key[:1], event[i : i + 1], known[i : i + 1]), spine, 0)[0] for i in range(len(rows))]
        return "".join(cells[0] for cells, found in zip(rows, alone, strict=True) if found >= 0)

    assert {cells[0]: cells[3].startswith("yes") for cells in rows} == {name: name in seen("13:07") for name in "ABC"}
    assert [seen(at) for at in ("13:08", "13:09", "13:29", "13:30")] == ["A", "AB", "AB", "ABC"]
    assert "At 13:09 event B is visible, too. Event C is visible from 13:30 on." in page(TIME)


def test_the_latest_value() -> None:
    rows = table(LATEST, "event time")
    event, known = (np.array([moment(cells[i]) for cells in rows]) for i in (0, 1))
    temperature = [cells[2].split(" ")[0] for cells in rows]
    events = Events(np.zeros(len(rows), dtype=np.int64), event, known)
    asked = table(LATEST, "asked at")
    assert len(asked) == 5
    for at, answer, _ in asked:
        row = latest(events, Spine(np.array([0]), np.array([moment(at)])), 3 * HOUR)[0]
        assert answer == ("null" if row < 0 else temperature[row])


def test_late_is_not_wrong() -> None:
    times = np.array([moment(at) for at in ("10:00", "10:05", "10:09")])
    events, layout = Events(np.zeros(3, dtype=np.int64), times, times), Layout.of([Aggregation("f", "x", "count", HOUR)])
    key, at, mark, ties = np.array([0]), np.array([moment("10:10")]), np.array([moment("10:05")]), np.array([1])
    values = {"x": np.ones(3)}
    marked = Spine(key, at, mark, ties)
    served, now = (aggregate(layout, events, values, spine)["f"][0] for spine in (marked, Spine(key, at)))
    lag = at[0] - events.first_unknown(marked)[0]
    assert (served, now, lag) == (2, 3, MINUTE)
    for what in (
        "gets 2. The mark is (10:05, 1)",
        "up to the mark the count is 2",
        "known at 10:10 the count is 3",
        "the lag is one minute",
    ):
        assert what in page(SKEW)


def test_declared_types() -> None:
    rows = table(TYPES, "value")
    assert len(rows) == 4
    for value, dtype, served in rows:
        found = float(declared(np.array([float(value)]), {"Float32": "float"}.get(dtype.strip("`"), dtype.strip("`").lower()))[0])
        assert math.isnan(found) if served.startswith("null") else found == float(served)
