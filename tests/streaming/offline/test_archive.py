"""The archive: every prediction and truth once, whatever is killed, sent twice, trimmed or garbage."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records.prediction import Label, Mark, Prediction
from feature_repo.records.redis_keys import label_log_key, labels_key, prediction_log_key
from streaming.offline import archive as archives
from streaming.offline import archive_hours
from streaming.offline.archive import Archive, ArchiveError
from streaming.online.store import connect
from tests.fuzz import fuzzed
from tests.serving.shop import make_contract

MODEL = "sells_out"
START_US = 1_700_000_000_000_000


def number(i: int) -> str:
    ms = f"{START_US // 1000 + i * 60_000:012x}"
    return f"{ms[:8]}-{ms[8:]}-7000-8000-{i:012x}"


def prediction(i: int, **changes: Any) -> Prediction:
    made = make_contract()
    values = [None if (i + n) % 5 == 0 else i + n / 3 for n in range(len(made.inputs))]
    at = START_US + i * 60_000_000
    one = Prediction(number(i), MODEL, 1, at, at + 5, {"store": i % 7}, values, "f" * len(values), {"v": Mark(at, 2, None)}, i / 1000)
    return msgspec.structs.replace(one, **changes)


@pytest.fixture
def client(redis_url: str) -> Any:
    made = connect(redis_url)
    yield made
    for key in (prediction_log_key("arch"), label_log_key("arch"), labels_key("arch", MODEL)):
        made.delete(key)
    made.close()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    from feature_repo.records import contract

    folder = tmp_path / "models" / MODEL / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"x")
    made = msgspec.structs.replace(make_contract(), model=MODEL, version=1, files={"model.onnx": contract.sha256(folder / "model.onnx")})
    contract.write(folder, made)
    return Archive(tmp_path / "offline", tmp_path / "models", tmp_path / "archive", "arch")


def put(client: Any, *found: Prediction) -> None:
    for one in found:
        client.xadd(prediction_log_key("arch"), {"p": msgspec.json.encode(one)})


def truth(client: Any, i: int, label: int, model: str = MODEL) -> None:
    client.xadd(label_log_key("arch"), {"l": msgspec.json.encode(Label(model, number(i), label, START_US + i * 60_000_000 + 9))})


def ids(archive: Archive) -> list[str]:
    return list(archive.predictions(MODEL)["prediction_id"].to_pylist())


def test_what_is_archived_comes_back_as_it_was(archive: Archive, client: Any) -> None:
    wanted = [prediction(i) for i in range(130)] + [prediction(131, role="shadow", of=number(130))]
    wanted.append(prediction(132, version=9, values=[1.5, None]))  # of a version nobody has: kept all the same
    put(client, *wanted)
    done = archive.run(client)
    assert (done.predictions, done.gaps, done.unreadable) == (132, [], 0)
    assert archive.restore(MODEL, archive.predictions(MODEL)) == wanted
    assert len(list((archive.root / f"predictions_{MODEL}").glob("day=*/*.parquet"))) == 3
    half = archive.predictions(MODEL, START_US + 60 * 60_000_000, START_US + 70 * 60_000_000)
    assert [r["prediction_id"] for r in half.to_pylist()] == [number(i) for i in range(60, 70)]


def test_nothing_is_double_whatever_is_sent_again(archive: Archive, client: Any) -> None:
    put(client, *[prediction(i) for i in range(50)], *[prediction(i) for i in range(40, 50)])
    assert archive.run(client).predictions == 50
    put(client, *[prediction(i) for i in range(45, 60)])  # a batch whose answer was lost
    assert archive.run(client).predictions == 10
    assert archive.run(client).predictions == 0
    assert ids(archive) == [number(i) for i in range(60)]


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(
    archive: Archive, client: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    class Killed(BaseException):
        pass

    choose = random.Random(seed)
    monkeypatch.setattr(archives, "PAGE", 17)
    add, note = archive_hours.add, Archive._note

    def sometimes(step: Any) -> Any:
        def run(*arguments: Any) -> Any:
            if choose.random() < 0.12:
                raise Killed
            made = step(*arguments)
            if choose.random() < 0.12:
                raise Killed
            return made

        return run

    monkeypatch.setattr(archive_hours, "add", sometimes(add))
    monkeypatch.setattr(Archive, "_note", sometimes(note))
    sent, kills = 0, 0
    while sent < 300 or kills < 5:
        more = choose.randint(0, 40)
        put(client, *[prediction(i) for i in range(sent, sent + more)])
        for i in range(sent, sent + more):
            truth(client, i, i % 2)
        sent += more
        try:
            archive.run(client)
        except Killed:
            kills += 1
    monkeypatch.setattr(archive_hours, "add", add)
    monkeypatch.setattr(Archive, "_note", note)
    archive.run(client)
    assert ids(archive) == [number(i) for i in range(sent)]
    truths = archive.labels(MODEL).to_pylist()
    assert [(t["prediction_id"], t["label"]) for t in truths] == [(number(i), i % 2) for i in range(sent)]


def test_a_correction_stands_beside_the_first_truth_and_the_same_truth_once(archive: Archive, client: Any) -> None:
    put(client, prediction(1))
    known = START_US + 60_000_009
    for label, at_us in ((1, known), (1, known), (0, known + 5), (1, known), (0, known + 5)):
        client.xadd(label_log_key("arch"), {"l": msgspec.json.encode(Label(MODEL, number(1), label, at_us))})
        archive.run(client)
    found = archive.labels(MODEL)
    assert list(zip(found["label"].to_pylist(), found["known_at"].cast("int64").to_pylist(), strict=True)) == [(1, known), (0, known + 5)]


HOSTILE_TRUTHS = {
    "no id": Label(MODEL, "no id", 1, 0),
    "the last id there can be": Label(MODEL, "ffffffff-ffff-7fff-8fff-ffffffffffff", 1, 0),
    "an id of the year 9998": Label(MODEL, "e677d21f-dc00-7000-8000-000000000000", 1, 0),
    "a label of 2^70": Label(MODEL, number(1), 2**70, 0),
    "known at 2^62": Label(MODEL, number(1), 1, 2**62),
    "a model that is a path": Label("../../elsewhere", number(1), 1, 0),
}
HOSTILE_PREDICTIONS = {
    "a moment of 2^70": prediction(1, at_us=2**70),
    "answered at 2^70": prediction(2, wall_us=2**70),
    "a version of 2^70": prediction(3, version=2**70),
    "a field of 2^64": prediction(4, request={"store": 2**64}),
    "a model that is a path": prediction(5, model="/tmp/x"),
    "no values": prediction(6, values=[]),
}


@fuzzed
@given(st.lists(st.binary(max_size=80) | st.sampled_from([msgspec.json.encode(t) for t in HOSTILE_TRUTHS.values()]), max_size=4), st.data())
def test_fuzz_whatever_lies_on_the_log_of_truths_is_a_truth_or_counted(raws: list[bytes], data: st.DataObject) -> None:
    """Truths of any shape, with bytes exchanged, become rows of the archive's table or count as unreadable; none ends a run."""
    one = bytearray(msgspec.json.encode(Label(MODEL, number(data.draw(st.integers(0, 9))), 1, START_US)))
    for place in data.draw(st.lists(st.integers(0, len(one) - 1), max_size=3)):
        one[place] = data.draw(st.integers(0, 255))
    entries = [(b"1-0", {b"l": raw}) for raw in (*raws, bytes(one))]
    with TemporaryDirectory() as folder:
        archive, done = Archive(Path(folder), Path(folder), Path(folder), "arch"), archives.Archived()
        archive._labels(entries, done, START_US + 10**12)
        assert done.labels + done.unreadable >= len(entries) - 1
        assert sum(len(archive.labels(p.name[7:])) for p in Path(folder).glob("labels_*")) == done.labels


def test_entries_that_are_none_are_counted_and_end_nothing(archive: Archive, client: Any) -> None:
    for one in HOSTILE_PREDICTIONS.values():
        put(client, one)
    client.xadd(prediction_log_key("arch"), {"p": b"{"})
    client.xadd(prediction_log_key("arch"), {"p": b"[" * 50_000})
    client.xadd(prediction_log_key("arch"), {"other": b"1"})
    put(client, prediction(7))
    for truth_ in HOSTILE_TRUTHS.values():
        client.xadd(label_log_key("arch"), {"l": msgspec.json.encode(truth_)})
    truth(client, 1, 0)
    done = archive.run(client)
    assert ids(archive) == [number(i) for i in (4, 6, 7)], "a field that fits no column is kept in the request as it came"
    assert (done.predictions, done.labels, done.unreadable) == (3, 1, 4 + 3 + len(HOSTILE_TRUTHS))
    assert sorted(p.name for p in archive.root.parent.iterdir()) == ["archive", "models", "offline"]
    assert archive.run(client).unreadable == 0, "once"


def test_what_redis_trimmed_unread_is_a_gap(archive: Archive, client: Any) -> None:
    put(client, *[prediction(i) for i in range(20)])
    archive.run(client)
    put(client, *[prediction(i) for i in range(20, 60)])
    client.xtrim(prediction_log_key("arch"), maxlen=25, approximate=False)
    done = archive.run(client)
    assert done.predictions == 25
    ((before, after),) = done.gaps
    assert before < after
    put(client, prediction(60))
    assert archive.run(client).gaps == done.gaps, "said once"


def test_a_redis_that_lost_its_end_is_read_from_its_beginning(archive: Archive, client: Any) -> None:
    client.xadd(prediction_log_key("arch"), {"p": msgspec.json.encode(prediction(0))}, id="5-0")
    client.xadd(prediction_log_key("arch"), {"p": msgspec.json.encode(prediction(1))}, id="9-0")
    archive.run(client)
    client.delete(prediction_log_key("arch"))
    for i, at in ((0, "5-0"), (2, "6-0")):
        client.xadd(prediction_log_key("arch"), {"p": msgspec.json.encode(prediction(i))}, id=at)
    assert archive.run(client).predictions == 1
    assert ids(archive) == [number(i) for i in range(3)]


DAY_US = 86_400_000_000


def test_retention_drops_whole_days_and_only_old_ones(archive: Archive, client: Any) -> None:
    put(client, *[prediction(i * 24 * 60) for i in range(10)])
    done = archive.run(client, keep_days=5, now_us=START_US + 9 * DAY_US)
    assert (done.dropped_days, done.spared) == (4, [])
    assert ids(archive) == [number(i * 24 * 60) for i in range(4, 10)]


def test_retention_counts_from_the_clock_and_never_from_the_data(archive: Archive, client: Any) -> None:
    """A prediction, and a truth, that say they are of the year 9998 make nothing else old."""
    put(client, *[prediction(i * 24 * 60) for i in range(10)], prediction(11, at_us=253_339_228_800_000_000))
    for i in range(10):
        truth(client, i * 24 * 60, 1)
    client.xadd(label_log_key("arch"), {"l": msgspec.json.encode(HOSTILE_TRUTHS["an id of the year 9998"])})
    done = archive.run(client, keep_days=20, now_us=START_US + 9 * DAY_US)
    assert (done.dropped_days, done.spared, done.unreadable) == (0, [], 1)
    assert len(archive.labels(MODEL)) == 10


def test_most_of_an_archive_is_never_deleted_at_once_unless_told_to(archive: Archive, client: Any) -> None:
    put(client, *[prediction(i * 24 * 60) for i in range(10)])
    now_us = START_US + 9 * DAY_US
    done = archive.run(client, keep_days=3, now_us=now_us)
    assert (done.dropped_days, done.spared) == (0, [f"6 of 10 days of predictions_{MODEL} are past their time"])
    assert archive.run(client, keep_days=3, now_us=now_us + 40 * 365 * DAY_US).dropped_days == 0, "a clock that jumped"
    assert archive.run(client, keep_days=3, now_us=now_us, most=1.0).dropped_days == 6
    assert ids(archive) == [number(i * 24 * 60) for i in range(6, 10)]


def test_truths_leave_redis_by_the_clock_and_not_most_of_them_at_once(
    archive: Archive, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PAGE", 10)
    truth(client, 1, 1)
    client.hset(labels_key("arch", MODEL), mapping={number(i * 24 * 60): b"{}" for i in range(10)} | {"not ours": b"x"})
    assert len(archive.run(client, now_us=START_US + 60 * DAY_US).spared) == 1
    assert client.hlen(labels_key("arch", MODEL)) == 11
    archive.run(client, now_us=START_US + 34 * DAY_US)
    assert client.hlen(labels_key("arch", MODEL)) == 7, "and what is not ours stays"


def test_two_at_once_are_refused_and_a_broken_cursor_says_what_to_do(archive: Archive, client: Any) -> None:
    put(client, prediction(1))
    with archive._alone(), pytest.raises(ArchiveError, match="another archiver"):
        archive.run(client)
    archive.run(client)
    (archive.home / "arch.json").write_text("{")
    with pytest.raises(ArchiveError, match="remove it"):
        archive.run(client)
    (archive.home / "arch.json").unlink()
    assert archive.run(client).predictions == 0


def test_a_prediction_from_before_time_is_archived_and_ends_no_later_run(archive: Archive, client: Any) -> None:
    put(client, prediction(1), prediction(2, at_us=-62_135_596_800_000_000))
    assert archive.run(client).predictions == 2
    put(client, prediction(3))
    assert archive.run(client, keep_days=3650).predictions == 1
    assert set(archive.predictions(MODEL)["prediction_id"].to_pylist()) >= {number(1), number(3)}


def write_contract(archive: Archive, version: int, **changes: Any) -> None:
    from feature_repo.records import contract

    folder = archive.models / MODEL / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"x")
    files = {"model.onnx": contract.sha256(folder / "model.onnx")}
    contract.write(folder, msgspec.structs.replace(make_contract(), version=version, files=files, **changes))


def test_a_field_that_another_version_asks_for_otherwise_ends_no_run(archive: Archive, client: Any) -> None:
    """Versions whose request fields have other types, of one hour and of several: every prediction comes back as it was."""
    from feature_repo.records.contract import Input, RequestField

    requests = {1: {"product": "tea", "store": 7}, 2: {"product": 5, "store": True}, 3: {"product": "tea", "store": 1.5}}
    dtypes = {1: ("string", "int64"), 2: ("int64", "bool"), 3: ("timestamp", "float64")}
    for version, (product, store) in dtypes.items():
        fields = [RequestField("product", "entity", product), RequestField("store", "entity", store)]  # type: ignore[arg-type]
        write_contract(archive, version, request=fields)
    asked_at = Input("asked_at", "asked_at", "request", "timestamp")
    moment = RequestField("asked_at", "request", "timestamp")
    write_contract(archive, 4, request=[moment], inputs=[asked_at])
    write_contract(archive, 5, inputs=[Input("product", "v:f", "feature", "float64"), Input("score", "v:g", "feature", "float64")])
    requests |= {4: {"asked_at": "2023-11-14T22:13:20Z"}, 5: {"product": "tea"}}
    own = {4: [1.7e9], 5: [2.5, None]}
    wanted = []
    for i in range(25):
        version = 1 + i % 5
        one = prediction(i * 12, version=version, request=requests[version])
        one = msgspec.structs.replace(one, values=own.get(version, one.values), statuses="f" * len(own.get(version, one.values)))
        wanted.append(one)
        put(client, one)
        if i % 2:
            assert archive.run(client).unreadable == 0
    archive.run(client)
    assert sorted(archive.restore(MODEL, archive.predictions(MODEL)), key=lambda one: one.at_us) == wanted
    some = archive.predictions(MODEL, columns=["event_timestamp", "prediction_id", "product"])
    assert some["product"].to_pylist()[:2] == ["tea", "5"]


def test_a_contract_that_is_not_the_released_one_names_nothing(archive: Archive, client: Any) -> None:
    from feature_repo.records import contract, release

    release.promote(archive.models, MODEL, 1)
    path = archive.models / MODEL / "1" / contract.CONTRACT
    made = contract.load(path.parent)
    contract.write(path.parent, msgspec.structs.replace(made, inputs=made.inputs[::-1]))  # every other file verifies
    wanted = [prediction(1), prediction(2)]
    put(client, wanted[0])
    archive.run(client)
    contract.write(path.parent, made)
    put(client, wanted[1])
    again = Archive(archive.root, archive.models, archive.home, "arch")
    again.run(client)
    (archive.models / MODEL / release.RELEASE).write_bytes(b"{")  # does not make the names of inputs unknown
    again = Archive(archive.root, archive.models, archive.home, "arch")
    assert again.restore(MODEL, again.predictions(MODEL)) == wanted


def test_an_hour_of_another_type_between_two_others_is_read(archive: Archive, client: Any) -> None:
    from feature_repo.records.contract import RequestField

    write_contract(archive, 2, request=[RequestField("product", "entity", "int64")])
    asked: list[tuple[int, Any]] = [(2, 5), (1, "tea"), (2, 6)]
    put(client, *[prediction(hour * 60, version=version, request={"product": key}) for hour, (version, key) in enumerate(asked)])
    archive.run(client)
    some = archive.predictions(MODEL, columns=["event_timestamp", "prediction_id", "product"])
    assert some["product"].to_pylist() == ["5", "tea", "6"]
