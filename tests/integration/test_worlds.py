"""The pipe of the bench of triage: without a fault, what is served is what is recomputed; a fault shows where it was put in, and only there."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.records.prediction import is_prediction_id
from feature_repo.records.verdict import FeatureVerdict, OutlierVerdict, Span, Triage, Verdict
from serving.monitoring.hours import DAY_US, HOUR_US
from tests.bench.drift import worlds
from tests.bench.drift.worlds import cases, faults, ground, judge, pipe, score, suites, tables
from tests.bench.drift.worlds.cases import CONCEPT, FAULT, POPULATION, QUIET, SKEW, Case, Suite, Truth
from tests.bench.drift.worlds.judge import Judged
from tests.bench.drift.worlds.pipe import Faults
from tests.bench.drift.worlds.world import TRAINING_DAYS, Change, Day, Drawn, Knobs, Latest, Source, Windowed, World, fields, yes


class Kiosks(World):
    """A small one: sales and shelves of twelve kiosks. Knob: `dear` (prices, log scale)."""

    name, sort = "kiosks", "small"
    zone = "Europe/Paris"
    first = date(2024, 1, 1)
    sources = (
        Source("sales", ("kiosk",), fields(price="Float64", late="Int64")),
        Source("shelves", ("kiosk",), fields(stock="Float64")),
    )
    views = (
        Windowed("sold", "sales", "kiosk", {"mean_price": "6h 24h", "count_price": "24h", "max_late": "6h"}),
        Latest("shelf", "shelves", "kiosk", ttl_h=9),
    )
    request = fields(pieces="Float64")
    expected = MappingProxyType({"sales": {"price": (0.0, 1e6)}})
    window, step, per_day = 300, 100, 60

    def draw(self, day: Day) -> Drawn:
        at = day.moments("sales", 400, [1] * 24)
        random = day.random("sales")
        kiosks = random.choice(self.names("k", 12), len(at))
        price = np.exp(random.normal(size=len(at)) + self.trait("dear", kiosks) + day.knobs("dear", at, kiosks))
        late = yes(random, self.latent("rain", at))
        sales = {"event_us": at, "known_us": at + random.integers(0, 3600, len(at)) * 1_000_000, "kiosk": kiosks, "price": price}
        times = np.repeat(day.start_us + np.arange(4) * 6 * HOUR_US, 12) + np.tile(np.arange(12) * 1_000_003, 4)
        stock = self.latent("stock", times) + random.normal(size=len(times))
        stock[random.random(len(times)) < 0.1] = np.nan
        shelves = {"event_us": times, "known_us": times + 5_000_000, "kiosk": np.tile(self.names("k", 12), 4), "stock": stock}
        asked = day.moments("asked", 60, [1] * 24)
        whose, random = day.random("asked").choice(self.names("k", 12), 60), day.random("label")
        pieces = np.round(np.exp(random.normal(size=60)), 3)
        requests = {"at_us": asked, "kiosk": whose, "pieces": pieces, "label": yes(random, np.log(pieces) + self.latent("rain", asked))}
        return Drawn({"sales": sales | {"late": late.astype(np.int64)}, "shelves": shelves}, requests | {"known_us": asked + HOUR_US})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ground.Ground]:
    before = dict(os.environ)  # making one exports its settings
    yield ground.make(Kiosks(), tmp_path_factory.mktemp("kiosks"))
    os.environ.clear()
    os.environ.update(before)


BEGINS = Kiosks().at(105) + 7 * HOUR_US
STREAM = {
    "lost": faults.lost(0.5, BEGINS),
    "lost of some keys": faults.without("kiosk", 0.5, BEGINS),
    "twice": faults.doubled(BEGINS),
    "late": faults.late(5, BEGINS),
    "out of order": faults.late(5, BEGINS, 0.5),
    "stopped": faults.stopped(BEGINS),
}
STORE = {
    "frozen": faults.frozen(BEGINS),
    "wrong key": faults.wrong_key(BEGINS),
    "missing": faults.missing(0.5, BEGINS),
    "overwritten": faults.overwritten("mean_price_24h", lambda x: x * 2, BEGINS),
}
SOURCE = {
    "unit": ("sales", faults.changed("price", lambda x: x * 1.8 + 32, BEGINS)),
    "constant": ("shelves", faults.constant("stock", -9.0, BEGINS)),
    "null": ("sales", faults.emptied("price", BEGINS)),
    "silent": ("sales", faults.silent(BEGINS)),
    "lost of some keys": ("sales", faults.without("kiosk", 0.5, BEGINS)),
    "twice": ("sales", faults.doubled(BEGINS)),
    "exchanged": ("sales", faults.exchanged("price", "late", BEGINS)),
    "misdated": ("sales", faults.misdated(-3, BEGINS)),
}
REQUEST = {
    "unit": faults.changed("pieces", lambda x: x * 12, BEGINS),
    "clock": faults.shifted("asked_at", 5, BEGINS),
    "key": faults.renamed("kiosk", "K-", BEGINS),
}


def played(made: ground.Ground, broken: Faults, name: str = "case") -> pipe.Log:
    """Four days from two before the fault on."""
    first, last = BEGINS - 2 * DAY_US, BEGINS + 2 * DAY_US
    return made.serve(made.drawn(first, last, Knobs()), first, last, broken, name)


@pytest.fixture(scope="module")
def calm(made: ground.Ground) -> pipe.Log:
    return played(made, Faults(), "without")


def since(log: pipe.Log) -> int:
    return int(np.searchsorted(log.at_us, BEGINS))


@pytest.mark.slow
def test_without_a_fault_served_is_recomputed_to_the_bit(made: ground.Ground, calm: pipe.Log) -> None:
    found = made.prove(calm, "without")
    assert (found.predictions, found.wrong, found.late) == (len(calm), 0, 0)
    assert {view.view for view in found.views} == {"sold", "shelf", "asked"}
    letters = "".join(p.statuses for p in calm.predictions)
    assert set("fnr") <= set(letters)
    assert all(is_prediction_id(p.id) for p in calm.predictions)


@pytest.mark.slow
def test_served_is_what_the_definition_says(made: ground.Ground, calm: pipe.Log) -> None:
    """The count of a day's sales, counted one by one; the hop of a window of 24 hours is one hour."""
    sales = made.calm.rows["sales"]
    event, known = tables.moments(sales), tables.moments(sales, "created_timestamp")
    kiosk = np.array(sales["kiosk"].to_pylist())
    place = made.engine.references.index("sold:count_price_24h")
    for one in calm.predictions[::40]:
        tail = (one.at_us - DAY_US) // HOUR_US * HOUR_US
        seen = (kiosk == one.request["kiosk"]) & (event >= tail) & (event <= one.at_us) & (known <= one.at_us)
        assert one.values[place] == seen.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("place", "which"), [*(("stream", name) for name in STREAM), *(("store", name) for name in STORE)])
def test_a_fault_of_stream_or_store_makes_served_differ_from_recomputed(
    made: ground.Ground, calm: pipe.Log, place: str, which: str
) -> None:
    broken = Faults(stream={"sales": STREAM[which]}) if place == "stream" else Faults(store={"sold": STORE[which]})
    log = played(made, broken)
    begun = since(log)
    assert log.predictions[:begun] == calm.predictions[:begun]
    before, after = made.prove(log[:begun], "case"), made.prove(log[begun:], "case")
    assert before.wrong + before.late == 0
    assert after.wrong + after.late > 20
    assert {view.view for view in after.views if view.wrong + view.late} == {"sold"}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "which"), [*(("source", name) for name in SOURCE), *(("request", name) for name in REQUEST)])
def test_a_fault_of_source_or_request_leaves_served_as_recomputed(made: ground.Ground, calm: pipe.Log, place: str, which: str) -> None:
    broken = Faults(source=dict([SOURCE[which]])) if place == "source" else Faults(request=REQUEST[which])
    log = played(made, broken)
    begun = since(log)
    assert log.predictions[:begun] == calm.predictions[:begun]
    found = made.prove(log, "case")
    assert (found.wrong, found.late, found.predictions) == (0, 0, len(log))
    others = [one.values != other.values for one, other in zip(log.predictions[begun:], calm.predictions[begun:], strict=True)]
    assert sum(others) > 20


@pytest.mark.slow
def test_what_was_scored_otherwise_has_the_right_values_and_another_score(made: ground.Ground, calm: pipe.Log) -> None:
    log = played(made, Faults(scored=faults.scored_otherwise(0, lambda x: x * 100, BEGINS)))
    assert [p.values for p in log.predictions] == [p.values for p in calm.predictions]
    moved = [one.score != other.score for one, other in zip(log.predictions, calm.predictions, strict=True)]
    assert not any(moved[: since(log)])
    assert any(moved)


@pytest.mark.slow
def test_a_value_past_its_ttl_is_served_as_stale(made: ground.Ground) -> None:
    log = played(made, Faults(stream={"shelves": faults.stopped(BEGINS)}))
    place = made.engine.references.index("shelf:stock")
    last = log.predictions[-1]
    assert last.statuses[place] == "s"
    assert last.values[place] is not None
    assert last.marks["shelf"].event_us is not None
    assert last.at_us - last.marks["shelf"].event_us > 9 * HOUR_US


@pytest.mark.slow
def test_a_case_is_looked_at_window_by_window(made: ground.Ground) -> None:
    suite = Suite(made.world)
    suite.stream("events lost", "sales", lambda at: faults.lost(0.5, at))
    case = suite.cases[0]
    seen = list(judge.windows(case, made))
    assert [len(one.log) for one in seen] == [300] * len(seen)
    assert seen[0].log.predictions[-1].at_us >= case.begins_us > seen[0].log.predictions[0].at_us
    known = seen[0].labels
    assert 0 < len(known) < len(made.before(case.begins_us)) + 100
    assert seen[0].log.predictions[-1].id not in known  # its truth comes an hour later
    recomputed = seen[-1].clues.recompute
    assert recomputed is not None
    assert {view.view: view.different > 0 for view in recomputed().views} == {"sold": True, "shelf": False, "asked": False}
    verdict = judge.look(case, seen[-1])
    assert judge.said(verdict).at_us == seen[-1].at_us


def test_a_change_leaves_the_days_before_it_alone() -> None:
    world = Kiosks()
    change = Change("dear", world.at(101.5), 1.0)
    calm, other = tables.of(world, world.raw(100, 104)), tables.of(world, world.raw(100, 104, Knobs((change,))))
    old = pa.array(tables.moments(calm.rows["sales"]) < change.begins_us)
    assert calm.rows["sales"].filter(old) == other.rows["sales"].filter(old)
    assert calm.rows["sales"] != other.rows["sales"]
    assert calm.asked == other.asked


def test_other_luck_gives_other_live_weeks_after_the_same_training_weeks() -> None:
    some, others = Kiosks(), Kiosks(luck=2)
    assert tables.of(some, some.raw(90, TRAINING_DAYS)) == tables.of(others, others.raw(90, TRAINING_DAYS))
    assert tables.of(some, some.raw(TRAINING_DAYS, 100)) != tables.of(others, others.raw(TRAINING_DAYS, 100))


@pytest.mark.parametrize(
    ("change", "days", "values"),
    [
        (Change("k", 0, 2.0), [-0.1, 0.0, 9.0], [0, 2, 2]),
        (Change("k", 0, 2.0, ramp_days=4), [0.0, 1.0, 8.0], [0, 0.5, 2]),
        (Change("k", 0, every_days=2), [1.0, 3.0, 5.0], [1, 0, 1]),
        (Change("k", 0, days=2), [1.0, 3.0], [1, 0]),
    ],
)
def test_a_knob_turns_as_its_change_says(change: Change, days: list[float], values: list[float]) -> None:
    at = (np.array(days) * DAY_US).astype(np.int64)
    assert Knobs((change,))("k", at).tolist() == values
    assert Knobs((change,))("another", at).tolist() == [0.0] * len(days)


def test_a_local_change_is_of_some_keys_and_always_the_same() -> None:
    names = np.array([f"k{i}" for i in range(2000)], dtype=object)
    turned = Knobs((Change("k", 0, keys=0.3),))("k", np.ones(2000, dtype=np.int64), names)
    assert 0.25 < turned.mean() < 0.35
    assert turned.tolist() == Knobs((Change("k", 0, keys=0.3),))("k", np.ones(2000, dtype=np.int64), names).tolist()


Event = st.tuples(st.sampled_from("ab"), st.integers(0, 8), st.integers(0, 8))


@settings(max_examples=200, deadline=None)
@given(events=st.lists(Event, max_size=12), asked=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10)), min_size=1, max_size=6))
def test_marks_are_of_the_newest_event_that_was_applied(events: list[tuple[str, int, int]], asked: list[tuple[str, int]]) -> None:
    """Against the definition, with events that tie and are delivered out of order."""
    table = pa.table(
        {
            "key": pa.array([key for key, _, _ in events], pa.string()),
            "event_timestamp": pa.array([known for _, known, _ in events], tables.US),
            "created_timestamp": pa.array([known for _, known, _ in events], tables.US),
            "delivered_us": pa.array([delivered for _, _, delivered in events], pa.int64()),
        }
    )
    at, keys = np.array([t for _, t in asked], dtype=np.int64), np.array([key for key, _ in asked], dtype=object)
    known, ties, _ = pipe.high_water(table, "key", at, keys)
    for n, (key, moment) in enumerate(asked):
        applied = [k for name, k, delivered in events if name == key and delivered <= moment]
        expected = (max(applied), applied.count(max(applied))) if applied else (pipe.NOBODY, 0)
        assert (known[n], ties[n]) == expected


def test_the_world_of_the_docstring_is_one() -> None:
    text = textwrap.dedent((worlds.__doc__ or "").split("A whole one:")[1].split("What to mind.")[0])
    names: dict[str, Any] = {"__name__": "rides"}
    for module in (pipe, faults, cases, worlds.world, np):
        names |= {name: value for name, value in vars(module).items() if not name.startswith("__")}
    exec(text, names | {"np": np}, names)
    names["np"] = np
    world = names["Rides"]()
    drawn = world.raw(0, 2)
    assert set(drawn.rows) == {"trips"}
    assert [case.place for case in names["suite"](world)] == ["source", "stream", "store", "request", "process", "process", "none"]
    source = worlds.definitions.feast_objects(world)
    compile(source, "features.py", "exec")
    assert 'name="mean_way_6h"' in source


@pytest.mark.parametrize("entry", suites.entries("fitted"), ids=lambda entry: entry.world.name)
def test_a_fitted_world_has_faults_of_every_place_and_names_that_are_there(entry: suites.Entry) -> None:
    some = entry.cases(entry.world)
    assert {case.place for case in some} == {"source", "stream", "store", "request", "process", "none"}
    assert len({case.kind for case in some}) >= 10
    ends = entry.world.at(TRAINING_DAYS + 42)
    for case in some:
        assert case.begins_us + int((case.full_days + Suite(entry.world).window_days) * DAY_US) <= ends, case.name
        assert {*case.faults.source, *case.faults.stream} <= {source.name for source in entry.world.sources}
        assert set(case.faults.store) <= {view.name for view in entry.world.views}
    drawn = tables.of(entry.world, entry.world.raw(TRAINING_DAYS, TRAINING_DAYS + 2))
    for case in some:
        if case.knobs.changes:
            days = (case.begins_us - entry.world.at(0)) // DAY_US
            calm, changed = (tables.of(entry.world, entry.world.raw(days, days + 4, knobs)) for knobs in (Knobs(), case.knobs))
            assert calm != changed, f"{case.name} changes nothing"
    for case in some:
        begins = entry.world.at(TRAINING_DAYS)
        assert case.begins_us >= begins
    assert drawn.asked.num_rows > entry.world.per_day


def verdict(day: float, cause: Any, of: str = "", proof: bool = False) -> Verdict:
    at, quiet = int(day * DAY_US), cause == QUIET
    column = FeatureVerdict("price", 0.01, 0.5, 0.0, 0.0, not quiet)
    triage = None if quiet else Triage(cause, "so it is", [of] if of else [], [], cause in (POPULATION, CONCEPT), proof)
    outliers = OutlierVerdict(0.0, 0.01, 1.0, False)
    return Verdict(f"1@{at}-0", "answer", 1, at, Span(300, at - DAY_US, at), not quiet, [column], column, outliers, "scipy", triage=triage)


def judged(truth: Truth, *verdicts: Verdict) -> Judged:
    return Judged(Case("a case", "kiosks", "kind", "process", truth, 0), judge.told(verdicts))


def trainings(*verdicts: Verdict, hold: bool = True) -> list[float]:
    return [at / DAY_US for at in score.trainings(judge.told(verdicts), hold)]


def test_a_training_begins_after_two_verdicts_in_a_row_that_call_for_it() -> None:
    assert trainings(verdict(1, POPULATION), verdict(2, QUIET), verdict(3, POPULATION), verdict(4, CONCEPT)) == [4]
    assert trainings(verdict(1, POPULATION), verdict(2, FAULT), verdict(3, POPULATION)) == []


def test_a_suspicion_holds_for_a_week_and_a_proof_as_long_as_it_stands() -> None:
    assert trainings(*(verdict(day, FAULT) for day in range(1, 12))) == [8]
    assert trainings(*(verdict(day, FAULT, proof=True) for day in range(1, 20))) == []
    assert trainings(*(verdict(day, FAULT) for day in range(1, 12)), hold=False) == [2, 9]


def test_a_real_change_that_a_proof_holds_for_more_than_a_week_is_counted() -> None:
    population = Truth(POPULATION)
    assert score.held_too_long(judged(population, *(verdict(day, FAULT, proof=True) for day in range(1, 12))))
    assert not score.held_too_long(judged(population, *(verdict(day, FAULT) for day in range(1, 12))))
    assert not score.held_too_long(judged(population, *(verdict(day, QUIET) for day in range(1, 12))))
    seldom = [verdict(1, POPULATION), *(verdict(day, QUIET) for day in range(2, 10))]
    assert not score.held_too_long(judged(population, *seldom, verdict(10, POPULATION)))
    assert score.held_too_long(judged(population, *seldom, verdict(10, FAULT)))


def test_consecutive_alarms_are_one_cluster() -> None:
    assert score.clusters(judge.told([verdict(1, FAULT), verdict(2, FAULT), verdict(3, QUIET), verdict(4, POPULATION)])) == 2
    assert score.clusters(judge.told([verdict(1, QUIET)])) == 0


def test_a_fault_is_right_only_where_its_source_or_view_is_named() -> None:
    one = judged(Truth(FAULT, frozenset({"sales", "sold"})), verdict(2, FAULT, "sold"))
    assert one.right(one.full)
    assert not one.right(judge.said(verdict(2, FAULT, "shelf")))
    assert not one.right(judge.said(verdict(2, SKEW, "sold")))


def test_costs_are_days_of_a_wrong_model_and_trainings_for_nothing() -> None:
    real = judged(Truth(POPULATION), verdict(1, POPULATION), verdict(3, POPULATION))
    broken = judged(Truth(FAULT), *(verdict(day, FAULT) for day in range(1, 6)))
    assert score.costs([real, broken]) == {"ours": (3.0, 0), "never hold": (3.0, 1), "always train": (1.0, 15)}


def test_what_a_world_expects_of_its_sources_holds_for_what_it_draws() -> None:
    import pandera.errors

    for world in [Kiosks(), *(entry.world for entry in suites.entries("fitted"))]:
        names: dict[str, Any] = {}
        exec(worlds.definitions.expectations(world), names)
        drawn = tables.of(world, world.raw(0, 3))
        assert set(names["EXPECTATIONS"]) == set(world.expected)
        for source, schema in names["EXPECTATIONS"].items():
            schema.validate(drawn.rows[source].to_pandas())
    broken = faults.changed("price", np.negative, 0)(tables.of(Kiosks(), Kiosks().raw(0, 3)).rows["sales"])
    exec(worlds.definitions.expectations(Kiosks()), names)
    with pytest.raises(pandera.errors.SchemaError):
        names["EXPECTATIONS"]["sales"].validate(broken.to_pandas())


def test_a_suite_refuses_two_cases_of_one_name(tmp_path: Path) -> None:
    suite = Suite(Kiosks())
    suite.nothing("nothing", 99)
    with pytest.raises(ValueError, match="two cases of kiosks"):
        suite.nothing("nothing", 99)
