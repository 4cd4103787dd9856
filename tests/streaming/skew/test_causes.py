"""Each cause of a difference, injected, is called by its name; budgets are kept or not."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_repo.records.prediction import Mark, Prediction
from streaming.skew.causes import CAUSES, name_causes, over_budget
from streaming.skew.proof import SkewError, prove
from tests.bikes.platform import Bikes

HOUR_US = 3_600_000_000


def one(served: float, same: float, now: float, letter: str = "f", lag_s: float = np.nan, redefined: bool = False) -> str:
    cells = (np.array([served]), np.array([letter]), np.array([same]), np.array([now]), np.array([lag_s]))
    return str(name_causes(*cells, redefined)[0])


@pytest.mark.parametrize(
    ("cell", "cause"),
    [
        (one(1.5, 1.5, 1.5), ""),
        (one(np.nan, np.nan, np.nan), ""),
        (one(1.5, 1.5, 2.0, lag_s=60), "late data"),
        (one(1.5, 1.5, 2.0, lag_s=5 * 3600), "stale materialization"),
        (one(np.nan, np.nan, 2.0, "m", lag_s=5 * 3600), "missing row"),
        (one(np.nan, 2.5, 2.5, "s"), "ttl"),
        (one(float(np.float32(0.1)), 0.1, 0.1), "cast"),
        (one(3.0, 3.4, 3.4), "cast"),
        (one(1.6, 1.5, 1.5), "wrong"),
        (one(1.6, 1.5, 1.5, redefined=True), "definition version"),
        (one(1.5, 1.5, 2.0, lag_s=60, redefined=True), "late data"),
        (one(np.inf, 1.0, 1.0), "wrong"),
    ],
)
def test_each_cause_has_its_name(cell: str, cause: str) -> None:
    assert cell == cause


def test_budgets_are_shares_of_cells_and_zero_for_what_must_not_be() -> None:
    assert over_budget({"late data": 900, "missing row": 40}, 1000, {}) == {}
    assert list(over_budget({"late data": 900, "wrong": 1, "cast": 1}, 1000, {"late data": 0.5})) == ["late data", "cast", "wrong"]
    assert list(over_budget({"missing row": 60}, 1000, {})) == ["missing row"]
    assert set(over_budget(dict.fromkeys(CAUSES, 1001), 1000, {})) == set(CAUSES)


def test_what_the_store_has_moved_on_from_is_no_wrong_cell_and_only_there() -> None:
    cells = (np.array([np.nan] * 3), np.array(["m"] * 3), np.array([0.0, np.nan, 0.0]), np.zeros(3), np.full(3, np.nan))
    assert name_causes(*cells, False, moved_on=np.array([True, True, False])).tolist() == ["moved on", "missing row", "wrong"]


def test_what_is_injected_into_a_log_is_what_the_proof_finds(bikes: Bikes) -> None:
    """Served rows of the training set are right by construction; then one cell each is spoilt."""
    names, reference = bikes.contract.names, "rides_by_station:sum_km_2h"
    place = names.index("rides_by_station__sum_km_2h")
    table = pq.read_table(bikes.training_set.path)
    known = [i for i, v in enumerate(table["rides_by_station__sum_km_2h"].to_pylist()) if v and v != round(v)][200:206]
    rows = table.take(known).to_pylist()
    marks_of = {i.source.split(":")[0] for i in bikes.contract.inputs if i.kind == "feature"}

    def served(row: dict, **changes: object) -> Prediction:  # type: ignore[type-arg]
        at = round(row["asked"].timestamp() * 1e6)
        request = {f.name: row[f.name].isoformat() if f.dtype == "timestamp" else row[f.name] for f in bikes.contract.request}
        marks = dict.fromkeys(marks_of, Mark(at, 10**6, None))
        made = Prediction("p", "turned_away", 1, at, at, request, [row[n] for n in names], "f" * len(names), marks, 0.5)
        return msgspec.structs.replace(made, **changes)

    def cell(row: dict, value: float | None, letter: str = "f") -> dict:  # type: ignore[type-arg]
        values = [row[n] for n in names]
        values[place] = value
        return {"values": values, "statuses": "".join(letter if i == place else "f" for i in range(len(names)))}

    right = prove(lambda: bikes.spark, bikes.case, bikes.settings, bikes.contract, [served(r) for r in rows])
    assert right.causes == {}
    assert right.passed_over == {}

    # what is no prediction of this version costs itself
    short, odd = served(rows[0], values=[1.0]), served(rows[0])
    odd.request["party"] = "two"
    some = prove(lambda: bikes.spark, bikes.case, bikes.settings, bikes.contract, [short, *(served(r) for r in rows), odd])
    inputs = len(bikes.contract.inputs)
    assert (some.predictions, some.cells, some.causes) == (right.predictions, right.cells, {})
    reasons = {f"1 values, for the {inputs} inputs of version 1": 1, "'party' is no int64, as version 1 takes it": 1}
    assert some.summary()["passed_over"] == reasons
    with pytest.raises(SkewError, match="no logged prediction of turned_away can be compared: 1 with 1 values, for"):
        prove(lambda: bikes.spark, bikes.case, bikes.settings, bikes.contract, [short])

    def found(prediction: Prediction, contract: object = bikes.contract) -> dict[str, int]:
        result = prove(lambda: bikes.spark, bikes.case, bikes.settings, contract, [prediction])  # type: ignore[arg-type]
        view = next(v for v in result.views if v.view == "rides_by_station")
        return dict(view.causes)

    row = rows[0]
    value = row["rides_by_station__sum_km_2h"]
    assert found(served(row, **cell(row, value + 1))) == {"wrong": 1}
    assert found(served(row, **cell(row, float(np.float32(value))))) == {"cast": 1}
    assert found(served(row, **cell(row, value, "s"))) == {"ttl": 1}
    other = msgspec.structs.replace(bikes.contract, definitions={**bikes.contract.definitions, reference: "older"})
    assert found(served(row, **cell(row, value + 1)), other) == {"definition version": 1}

    at = round(row["asked"].timestamp() * 1e6)
    newer = dict.fromkeys(marks_of, Mark(at, 10**6, None)) | {"rides_by_station": Mark(at, 10**6, at + HOUR_US)}
    assert found(served(row, **cell(row, None, "m"), marks=newer)) == {"moved on": 1}

    # what had not been applied: an older mark, and the values that go with it
    def behind(us: int, letter: str) -> dict[str, int]:
        at = round(row["asked"].timestamp() * 1e6)
        marks = dict.fromkeys(marks_of, Mark(at, 10**6, None)) | {"rides_by_station": Mark(at - us, 0, None)}
        before = prove(lambda: bikes.spark, bikes.case, bikes.settings, bikes.contract, [served(row, marks=marks)])
        values = [row[n] for n in names]
        for difference in before.examples:  # what the store would have served at that mark
            values[names.index(difference.feature.replace(":", "__"))] = difference.recomputed
        letters = "".join(letter if n.startswith("rides_by_station__") else "f" for n in names)
        return found(served(row, marks=marks, values=values, statuses=letters))

    assert set(behind(2 * HOUR_US, "f")) == {"late data"}
    assert set(behind(30 * HOUR_US, "f")) == {"stale materialization"}
    assert set(behind(30 * HOUR_US, "m")) == {"missing row"}
