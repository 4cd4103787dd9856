"""What training and the loop read of what others wrote - the prediction log, the watch's verdict - whatever it is: a broken one costs itself."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records.prediction import Mark, Prediction, rows, sound
from feature_repo.records.redis_keys import prediction_log_key
from feature_repo.records.verdict import FeatureVerdict, OutlierVerdict, Triage, history_path
from infra.files import FileError
from infra.settings import Settings
from serving.monitoring import reference
from serving.simulation import replay
from serving.simulation.replay import ReplayError
from streaming.join import recompute
from streaming.offline.parquet import TableError
from streaming.online.store import connect
from streaming.skew.proof import read_log
from tests.fuzz import fuzzed, parquet_bytes
from tests.serving.hostile import bodies
from training.data import leakage, training_set
from training.evaluation import definition_change
from training.monitoring import live_quality
from training.retraining import trigger_facts
from training.retraining.alarm import Row

MODEL, AT_US = "sells_out", 1_700_000_000_000_000


def prediction(i: int) -> Prediction:
    marks = {"sales": Mark(AT_US, 1, None)}
    return Prediction(f"id{i}", MODEL, 1, AT_US, AT_US, {"store": i, "product": "tea"}, [1.5, None], "fn", marks, 0.25)


ENTRY = msgspec.to_builtins(prediction(0))
VERDICT: dict[str, Any] = {
    "id": "1@1700000000000-5",
    "model": MODEL,
    "version": 1,
    "at_us": AT_US,
    "window": {"rows": 1, "from_us": AT_US, "to_us": AT_US},
    "drift": True,
    "features": [FeatureVerdict("sales__count_1h", 0.001, 0.5, 0.0, 0.0, True), FeatureVerdict("shelf__stock", 0.7, 0.1, 0.0, 0.0, False)],
    "score": FeatureVerdict("score", 0.5, 0.1, 0.0, 0.0, False),
    "outliers": OutlierVerdict(0.0, 0.01, 1.0, False),
    "detector": "scipy",
    "triage": Triage("population change", "", [], [], True),
}


@pytest.fixture(scope="module")
def redis(redis_url: str) -> Iterator[Any]:
    made = connect(redis_url)
    yield made
    made.close()


@pytest.fixture(scope="module")
def project(redis: Any) -> Iterator[str]:
    name = f"readers_{uuid.uuid4().hex[:8]}"
    yield name
    redis.delete(prediction_log_key(name))


def write_log(redis: Any, project: str, fields: list[dict[bytes, bytes]]) -> None:
    with redis.pipeline(transaction=False) as pipe:
        pipe.delete(prediction_log_key(project))
        for one in fields:
            pipe.xadd(prediction_log_key(project), one)
        pipe.execute()


@fuzzed
@given(st.lists(bodies(ENTRY) | st.none(), max_size=3))
def test_fuzz_the_log_is_read_beside_whatever_lies_in_it(redis: Any, project: str, raws: list[bytes | None]) -> None:
    """As the skew proof and the what-if read it: what is no prediction is passed over, every other is read."""
    good = [prediction(1), prediction(2)]
    broken = [{b"other": b"1"} if raw is None else {b"p": raw} for raw in raws]
    entries = [{b"p": msgspec.json.encode(one)} for one in good]
    write_log(redis, project, [entries[0], *broken, entries[1]])
    for found in (read_log(redis, project, MODEL), definition_change.last_requests(redis, project, MODEL, 10)):
        assert [one for one in found if one.id in ("id1", "id2")] == good
        assert len(found) <= 2 + len(raws)
        assert all(isinstance(one, Prediction) for one in found)


def test_how_many_entries_are_none_is_said(redis: Any, project: str, caplog: pytest.LogCaptureFixture) -> None:
    garbage = [b"\xff", b"[" * 100_000, b'{"id":"\xff"}', b"", json.dumps(ENTRY | {"at_us": 10**18}).encode()]
    write_log(redis, project, [*({b"p": raw} for raw in garbage), {b"p": msgspec.json.encode(prediction(1))}])
    for read in (lambda: read_log(redis, project, MODEL, 1), lambda: definition_change.last_requests(redis, project, MODEL, 10)):
        caplog.clear()
        assert read() == [prediction(1)]
        assert [r.getMessage().partition(" of ")[0] for r in caplog.records] == ["5 entries"]
        assert "passed over" in caplog.text


FIELDS = {
    "product": "string", "store": "int64", "n": "int32", "price": "float64", "open": "bool", "asked_at": "timestamp", "raw": "bytes",
}  # fmt: skip
ASKED = {"product": "tea", "store": 7, "n": 1, "price": 2.5, "open": True, "asked_at": "2023-11-14T22:13:20Z", "raw": "ab"}


def asking(i: int, **request: Any) -> Prediction:
    return msgspec.structs.replace(prediction(i), request=ASKED | request)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("product", 5), ("store", "seven"), ("store", 2**70), ("store", 1.5), ("n", 2**31), ("price", "dear"), ("open", "yes"),
        ("asked_at", "yesterday"), ("asked_at", 1e18), ("raw", 5), ("product", "\ud800"),
    ],
)  # fmt: skip
def test_a_request_of_another_type_is_passed_over_with_its_reason(field: str, value: Any) -> None:
    log = [asking(1), asking(2, **{field: value}), asking(3, **{field: None}), asking(4)]
    found, why = recompute.fitting(log, FIELDS, "version 1", 2)
    assert [one.id for one in found] == ["id1", "id3", "id4"]
    assert why == {f"{field!r} is no {FIELDS[field]}, as version 1 takes it": 1}


def test_an_entry_with_another_number_of_values_is_passed_over_with_its_reason() -> None:
    log = [asking(1), msgspec.structs.replace(asking(2), values=[1.0] * 3), msgspec.structs.replace(asking(3), values=[]), asking(4)]
    found, why = recompute.fitting(log, FIELDS, "version 7", 2)
    assert [one.id for one in found] == ["id1", "id4"]
    assert why == {"3 values, for the 2 inputs of version 7": 1, "0 values, for the 2 inputs of version 7": 1}
    assert recompute.fitting(log, FIELDS, "version 7") == (log, {}), "a what-if reads no values"


@fuzzed
@given(st.lists(bodies(msgspec.to_builtins(asking(0))), max_size=3))
def test_fuzz_what_fits_a_version_can_be_computed_again(raws: list[bytes]) -> None:
    """An entry that is one by its types may still say anything: what is left after the others makes a table."""
    entries = [(b"1-1", {b"p": raw}) for raw in [msgspec.json.encode(asking(1)), *raws]]
    some, _ = sound(entries)
    found, why = recompute.fitting(some, FIELDS, "version 1", 2)
    assert len(found) + why.total() == len(some)
    assert asking(1) in found
    request: Any = [SimpleNamespace(name=name, dtype=dtype) for name, dtype in FIELDS.items()]
    assert recompute._spine(found, [], request).num_rows == len(found)
    rows([one.values for one in found], [one.statuses for one in found], 2)


@fuzzed
@given(st.lists(bodies(msgspec.to_builtins(VERDICT)), max_size=3))
def test_fuzz_a_line_of_the_history_is_a_verdict_or_is_left_out(tmp_path_factory: pytest.TempPathFactory, raws: list[bytes]) -> None:
    """The verdict after the broken ones is heard, whatever they are."""
    settings = Settings(state=tmp_path_factory.mktemp("verdicts"))
    path = history_path(settings, MODEL)
    path.parent.mkdir(parents=True)
    lines = [*(raw.replace(b"\n", b" ") for raw in raws), msgspec.json.encode(VERDICT | {"id": "1@1700000000001-0"})]
    path.write_bytes(b"\n".join(lines) + b"\n")
    row, read = trigger_facts.verdicts(settings, MODEL, Row(), 0, 1)
    assert read == path.stat().st_size
    assert (row.version, row.seen) == (1, "1@1700000000001-0")
    assert row.alarm is not None
    assert row.alarm.text == "population change: sales__count_1h"


def test_another_thing_in_the_history_s_place_calls_for_nothing(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path)
    assert trigger_facts.verdicts(settings, MODEL, Row(), 0, 1) == (Row(1), 0)
    history_path(settings, MODEL).mkdir(parents=True)
    assert trigger_facts.verdicts(settings, MODEL, Row(), 0, 1)[0] == Row(1)


AT = datetime(2024, 5, 1, tzinfo=UTC)
SPEC: Any = SimpleNamespace(spine=SimpleNamespace(table="t", id=["k"], timestamp="at", label="x", label_timestamp="at"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    (root / "t" / "day=2024-05-01").mkdir(parents=True)
    table = pa.table({"k": ["a", "b"], "at": pa.array([AT, AT], pa.timestamp("us", "UTC")), "x": [1.0, None]})
    pq.write_table(table, root / "t" / "day=2024-05-01" / "part-0.parquet")
    return root


_good: dict[Path, bytes] = {}


@fuzzed
@given(st.data())
def test_fuzz_what_training_reads_of_parquet_is_read_or_refused_by_name(examples: Path, data: st.DataObject) -> None:
    """The examples, as the triggers, the live quality and the leakage check read them, and a training set."""
    path = examples / "t" / "day=2024-05-01" / "part-0.parquet"
    whole = _good.setdefault(path, path.read_bytes())
    path.write_bytes(data.draw(parquet_bytes(whole)))
    own: Any = SimpleNamespace(offline_root=examples)
    archive: Any = SimpleNamespace(root=examples)
    with contextlib.suppress(TableError):
        assert trigger_facts.truths_known(own, SPEC, 2**62).dtype == np.int64
    with contextlib.suppress(TableError):
        assert set(live_quality._spine(archive, SPEC, pa.table({"k": ["a"]}))) <= {0}
    with contextlib.suppress(TableError):
        leakage._read(examples / "t")
    with contextlib.suppress(FileError):
        assert training_set.read(path, ["k"]).column_names == ["k"]
    with contextlib.suppress(ReplayError):
        replay._table(examples, "t", int(AT.timestamp()) * 10**6, int(AT.timestamp()) * 10**6 + 5, "at")
    with contextlib.suppress(reference.ReferenceError):
        reference._readable(path, pq.read_table)


def test_what_training_reads_of_parquet_is_what_lies_there(examples: Path) -> None:
    path = examples / "t" / "day=2024-05-01" / "part-0.parquet"
    path.write_bytes(_good.get(path, path.read_bytes()))
    own: Any = SimpleNamespace(offline_root=examples)
    at_us = round(AT.timestamp() * 1e6)
    assert trigger_facts.truths_known(own, SPEC, 2**62).tolist() == [at_us]
    archive: Any = SimpleNamespace(root=examples)
    assert live_quality._spine(archive, SPEC, pa.table({"k": ["b", "a"]})) == {1: (1, at_us)}
    assert training_set.read(path).num_rows == 2
    path.write_bytes(b"PAR1")
    for read in (lambda: trigger_facts.truths_known(own, SPEC, 2**62), lambda: leakage._read(examples / "t")):
        with pytest.raises(TableError, match=f"the table at {examples / 't'} cannot be read"):
            read()
    with pytest.raises(FileError, match="cannot be read as a training set"):
        training_set.read(path)
    path.unlink()
    assert not len(trigger_facts.truths_known(own, SPEC, 2**62)), "no example yet"
