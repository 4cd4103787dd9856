"""Every file that is read, with its bytes spoilt: it is read, or refused by the one error that its reader documents, or put aside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records import contract, release
from feature_repo.records.contract import ContractError
from feature_repo.records.decisions import Decision, Journal
from feature_repo.records.prediction import Prediction
from feature_repo.records.release import ReleaseError
from feature_repo.records.verdict import history, history_path
from feature_repo.registry import stored_order
from feature_repo.spec.use_case import UseCase
from feature_repo.spec.yaml_file import UseCaseError
from infra import files, ports
from infra.settings import Settings
from infra.supervision import launch
from infra.supervision.redis_probe import Probes
from serving.telemetry.prediction_id import PredictionIds, read_key
from serving.telemetry.spool import Spool
from streaming.join.in_process import NotHere, read_events_here
from streaming.join.on_spark import JoinError
from streaming.offline.archive import Archive, Archived, ArchiveError
from streaming.offline.footers import extent
from streaming.offline.parquet import TableError, schema
from streaming.online import removal
from streaming.schema.feature_view import Feature, View
from tests.fuzz import fuzzed, parquet_bytes, spoilt
from tests.serving.hostile import bodies
from tests.serving.shop import IDS, NOW_US, write_version

HOUR = 3_600_000_000
AT = datetime(2024, 5, 1, tzinfo=UTC)
VIEW = View("p", "v", (Feature("k", "int64"),), "t", "at", None, (), 0, (Feature("x", "double"),), None, None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's state, with one good file of each kind."""
    root = tmp_path_factory.mktemp("home")
    write_version(root / "models", 1)
    release.promote(root / "models", "sells_out", 1)
    Journal(root, "m").write(Decision("1/held", 0, 0, "held", "because"))
    ports.port(root, "redis")
    launch.write(root / "run.json", {"pid": 7, "created": 1.5, "argv": ["a"], "session": 7, "starts": 1})
    archive = Archive(root / "offline", root / "models", root / "home", "p")
    one = Prediction("id1", "m", 1, HOUR, HOUR, {"k": 1}, [1.0, None], "fn", {}, 0.5)
    archive._predictions([(b"1-0", {b"p": msgspec.json.encode(one)})], Archived())
    (root / "t" / "day=2024-05-01").mkdir(parents=True)
    table = pa.table({"k": [1, 2], "at": pa.array([AT, AT], pa.timestamp("us", "UTC")), "x": [0.5, None]})
    pq.write_table(table, root / "t" / "day=2024-05-01" / "part-0.parquet")
    return root


def _refused(*kinds: type[Exception]) -> Any:
    return contextlib.suppress(*kinds)


def _release(root: Path) -> None:
    with _refused(ReleaseError):
        release.read(root / "models", "sells_out")
    assert release.champion_if_any(root / "models", "sells_out") is None or isinstance(release.champion(root / "models", "sells_out"), int)


def _contract(root: Path) -> None:
    with _refused(ContractError):
        contract.load(root / "models" / "sells_out" / "1")


def _ports(root: Path) -> None:
    assert all(1 <= number <= 65535 for number in ports.chosen(root).values())


def _record(root: Path) -> None:
    found = launch.read_record(root / "run.json")
    assert found is None or found.lives in (True, False)


def _journal(root: Path) -> None:
    assert all(isinstance(one, Decision) for one in Journal(root, "m").read())


def _history(root: Path) -> None:
    assert not history(Settings(state=root), "v")


def _cursor(root: Path) -> None:
    with _refused(ArchiveError):
        assert Archive(root / "offline", root / "models", root / "home", "p").cursor.predictions.read is not None


def _key(root: Path) -> None:
    with _refused(ValueError):
        key, since = read_key(root / "prediction-ids.key")
        assert PredictionIds(key, since).answered("m", PredictionIds(key, since).make("m", NOW_US)[0])


def _spool(root: Path) -> None:
    with Spool(root / "spool").orphan() as left:
        assert left is None or all(b"\n" not in line for line in left)


def _asked(root: Path) -> None:
    probes = Probes()
    probes.look(root, ["redis"])
    probes.look(root, [])


def _removing(root: Path) -> None:
    assert all(isinstance(view, View) for view in removal.owed(root))


_ENTRIES = b'{"id":"1"}\n{"id":"2"}\n'
KINDS: dict[str, tuple[str, bytes | None, Callable[[Path], None]]] = {
    "release.json": ("models/sells_out/release.json", None, _release),
    "contract.json": ("models/sells_out/1/contract.json", None, _contract),
    "ports.json": ("ports.json", None, _ports),
    "run/*.json": ("run.json", None, _record),
    "journal.jsonl": ("autopilot/m/journal.jsonl", None, _journal),
    "watch/*.jsonl": ("watch/v.jsonl", _ENTRIES, _history),
    "archive cursor": ("home/p.json", b'{"predictions":{"id":"5-1","read":7},"labels":{"id":"0-0","read":0}}', _cursor),
    "prediction-ids.key": ("prediction-ids.key", b"ab" * 32 + b" 1700000000000\n", _key),
    "run/*.asked": ("redis.asked", b"1", _asked),
    "removing.json": (removal.OWED, b'[{"project":"p","name":"v","keys":[{"name":"k","dtype":"int64"}],"features":[]}]', _removing),
    "spool": ("spool/x.jsonl", _ENTRIES, _spool),
}
"""Where it lies, what is good in it (None: what lies there), and how it is read."""


@pytest.mark.parametrize("kind", KINDS)
@fuzzed
@given(data=st.data())
def test_fuzz_a_file_of_the_checkout_is_read_or_refused_as_documented(home: Path, kind: str, data: st.DataObject) -> None:
    where, good, act = KINDS[kind]
    path = home / where
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = _kept(path, good)
    if kind.endswith(".json") and data.draw(st.booleans()):
        path.write_bytes(data.draw(bodies(json.loads(whole))))
    else:
        path.write_bytes(data.draw(spoilt(whole)))
    act(home)
    for aside in path.parent.glob(f"{path.name}.broken*"):
        aside.unlink()


_good: dict[Path, bytes] = {}


def _kept(path: Path, good: bytes | None) -> bytes:
    if path not in _good:
        _good[path] = path.read_bytes() if good is None else good
    return _good[path]


def test_every_file_is_read_as_it_was_written(home: Path) -> None:
    for where, good, act in KINDS.values():
        path = home / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_kept(path, good))
        act(home)
    assert release.champion(home / "models", "sells_out") == 1
    assert contract.load(home / "models" / "sells_out" / "1").version == 1
    assert read_key(_write(home / "prediction-ids.key", KINDS["prediction-ids.key"][1] or b""))[1] == 1_700_000_000_000


def _write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("key", ["ab", "ab" * 31, "ab" * 33, "ab" * 65])
def test_a_key_of_another_length_is_none(tmp_path: Path, key: str) -> None:
    """A short one could be guessed, and one beyond 64 bytes failed at the first prediction."""
    with pytest.raises(ValueError, match="32 bytes"):
        read_key(_write(tmp_path / "key", f"{key} 5\n".encode()))


@fuzzed
@given(st.data())
def test_fuzz_an_archived_hour_is_read_or_left_out(home: Path, data: st.DataObject) -> None:
    archive = Archive(home / "offline", home / "models", home / "home", "p")
    (path,) = (home / "offline").rglob("*.parquet")
    path.write_bytes(data.draw(parquet_bytes(_kept(path, None))))
    found = archive.predictions("m")
    assert found["prediction_id"].to_pylist() in ([], ["id1"]), "a flipped bit is seen"
    with contextlib.suppress(ArchiveError):
        assert all(isinstance(one, Prediction) for one in archive.restore("m", found))
    newest = archive.newest_us("m")
    assert newest is None or isinstance(newest, int)


@fuzzed
@given(st.data())
def test_fuzz_an_offline_table_is_read_or_refused_by_name(home: Path, data: st.DataObject) -> None:
    """As `ingest`, the join in this process and the plan of a backfill read its files; Spark's reading of them is Spark's."""
    path = home / "t" / "day=2024-05-01" / "part-0.parquet"
    path.write_bytes(data.draw(parquet_bytes(_kept(path, None))))
    with _refused(TableError):
        schema(str(home / "t"))
    with _refused(TableError):
        extent(VIEW, home, None, None)
    with _refused(JoinError, NotHere):
        read_events_here(VIEW, home, None, 2**62)


_YAML = {
    "feature_store.yaml": b"project: bikes\nregistry: data/registry.db\nprovider: local\nonline_store:\n  type: redis\n",
    "ingest.yaml": b"raw: {rides: {path: rides.csv, format: csv}}\ntables: {rides: {sql: sql/rides.sql, timestamp: began}}\n",
    "models/turned_away.yaml": (Path(__file__).parents[1] / "bikes" / "repo" / "models" / "turned_away.yaml").read_bytes(),
}


@fuzzed
@given(st.sampled_from(sorted(_YAML)), st.data())
def test_fuzz_a_file_of_a_use_case_is_read_or_refused_by_its_name(home: Path, name: str, data: st.DataObject) -> None:
    folder = home / "case"
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for other, raw in _YAML.items():
        (folder / other).write_bytes(data.draw(spoilt(raw)) if other == name else raw)
    case = UseCase(folder)
    for act in (lambda: case.project, lambda: case.ingest, lambda: case.model("turned_away"), lambda: case.models):
        with _refused(UseCaseError):
            act()


@fuzzed
@given(spoilt(json.dumps([["a", "b"], ["c", "c"]]).encode()).map(lambda raw: raw.decode(errors="replace")))
def test_fuzz_the_stored_order_in_a_registry_is_one_or_none(tag: str) -> None:
    assert all(isinstance(one, str) for pair in stored_order._read(tag) for one in pair)


def test_the_orders_reader_outlives_a_deep_one() -> None:
    assert stored_order._read("[" * 100_000) == []
    assert stored_order._read('[["a", "b"]]') == [("a", "b")]


def test_the_ids_that_are_known_are_of_the_key() -> None:
    assert IDS.answered("sells_out", IDS.make("sells_out", NOW_US)[0])
    assert not history_path(Settings(state=Path("/nowhere")), "m").exists()
    assert files.read_lines(Path("/nowhere/at/all"), Decision) == []
