"""The loop on the second use case: trigger to promotion, challengers that are bad in production only, and a kill at every point."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo.records import contract, decisions, release
from feature_repo.records.decisions import Decision, Journal
from feature_repo.records.prediction import Label, Prediction
from feature_repo.records.redis_keys import drift_key, label_log_key, labels_key, prediction_log_key, quality_key, tallies_key
from feature_repo.records.replica_tally import Count, Tally
from feature_repo.spec.retraining import Learning
from feature_repo.spec.use_case import UseCase
from feature_repo.triggers.base import DAY_US
from streaming.online.store import connect
from tests.bikes.platform import Bikes
from training.evaluation.rescoring import scored
from training.gates.record import Checked, Gates, write_gates
from training.retraining import autopilot as pilots
from training.retraining.autopilot import Autopilot
from training.retraining.loop import AutopilotError
from training.retraining.loop_state import State
from training.retraining.retrain import TRIGGER, find
from training.retraining.server_metrics import Counters, Unknown, since, summed
from training.retraining.staging import Staging
from training.retraining.triggers import Reason

MODEL = "turned_away"
STAGE = {"samples": 120, "labelled": 80, "hours": 1, "patience_days": 3}
LEARNING = Learning.model_validate(
    {
        "triggers": {"drift": True, "drift_verdicts": 1, "cooldown_days": 1, "budget": 3},
        "stages": {"shadow": STAGE, "canary": STAGE, "probation": STAGE, "share": 0.5, "alpha": 0.01, "latency_ms": 5},
    }
)
START_US = 1_700_000_000_000_000


class World:
    """What is outside the loop: a server that follows the release file, and truths that come in an hour later."""

    def __init__(self, bikes: Bikes, folder: Path) -> None:
        shutil.copytree(bikes.settings.model_root / MODEL / str(bikes.contract.version), folder / "models" / MODEL / "1")
        self.settings = bikes.settings.model_copy(update={"state": folder})
        contract.write(folder / "models" / MODEL / "1", msgspec.structs.replace(bikes.contract, version=1))
        release.promote(self.settings.model_root, MODEL, 1)
        self.project = f"loop_{folder.name[-6:]}"
        self.case = UseCase(bikes.case.folder)
        self.case.__dict__["project"] = self.project
        spec = self.case.model(MODEL).model_copy(update={"learning": LEARNING})
        self.case.__dict__["models"] = {MODEL: spec}
        self.client = connect(bikes.settings.redis())
        self.rows = pq.read_table(bikes.training_set.path)
        self.rows = self.rows.filter(pc.is_valid(self.rows["turned_away"]))
        self.sent, self.now_us = 0, START_US
        self.random = np.random.default_rng(0)
        self.trained: list[Reason] = []
        self.gates_pass = True
        self.bad: Callable[[str, int], bool] = lambda role, version: False
        """Whether a version's answers are spoilt, in production only."""
        self.counted: dict[int, dict[str, int]] = {}
        self.silent = False
        """Whether the replicas write no counters."""

    def pilot(self) -> Autopilot:
        self.tell()  # as every second
        return Autopilot(self.client, self.settings, self.case, MODEL, self.train)

    def train(self, reason: Reason, as_of_us: int) -> Gates | None:
        """A training that takes no time: the first version again, under a number of its own."""
        self.trained.append(reason)
        version = find(self.settings, MODEL, reason.id)
        if version is None:
            root = self.settings.model_root / MODEL
            version = 1 + max(int(p.name) for p in root.iterdir() if p.name.isdigit())
            made = contract.load(root / "1")
            partial = root / f".new{version}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(root / "1", partial)
            contract.write(partial, msgspec.structs.replace(made, version=version, provenance={TRIGGER: reason.id}))
            partial.rename(root / str(version))
        gates = Gates(version, self.live(), [Checked("champion", self.gates_pass, "by the test")])
        write_gates(self.settings, MODEL, gates)
        return gates

    def rewrite(self, made: contract.Contract) -> None:
        """The first version anew, and live."""
        contract.write(self.settings.model_root / MODEL / "1", made)
        (self.settings.model_root / MODEL / release.RELEASE).unlink()
        release.promote(self.settings.model_root, MODEL, 1)

    def drift(self, retrain: bool = True, number: str = "v1") -> None:
        verdict = {
            "id": number,
            "features": [{"name": "dock__charge", "drift": True}],
            "triage": {"cause": "population", "retrain": retrain},
        }
        self.client.set(drift_key(self.project, MODEL), msgspec.json.encode(verdict))

    def serve(self, n: int = 60) -> None:
        """An hour of requests, answered and shadowed as the release says."""
        chosen = self.rows.take(self.random.integers(0, self.rows.num_rows, n))
        now = release.read(self.settings.model_root, MODEL)
        assert now is not None
        scores = {v: scored(self.settings.model_root, MODEL, v).score(chosen) for v in now.versions}
        names = contract.load(self.settings.model_root / MODEL / "1").names
        values = [[None if v is None else float(v) for v in row] for row in zip(*(chosen[name].to_pylist() for name in names), strict=True)]
        labels = chosen["turned_away"].to_pylist()
        for i in range(n):
            at = self.now_us + i * 3_600_000_000 // n
            version = now.answers(str(i).encode())
            role = "champion" if version == now.champion else "canary"
            entries = [(self.id(at), version, role, None)]
            if now.shadow is not None:
                entries.append((self.id(at), now.shadow, "shadow", entries[0][0]))
            for number, v, r, of in entries:
                score = float(scores[v][i])
                score = 1 - score if self.bad(r, v) else score
                one = Prediction(number, MODEL, v, at, at, {}, values[i], "f" * len(names), {}, score, r, of)
                self.client.xadd(prediction_log_key(self.project), {"p": msgspec.json.encode(one)})
                count = self.counted.setdefault(v, {"ok": 0, "scored": 0, "failed": 0, "slow": 0})
                count["scored" if r == "shadow" else "ok"] += 1
            truth = Label(MODEL, entries[0][0], int(labels[i]), at + 1_000_000)
            self.client.xadd(label_log_key(self.project), {"l": msgspec.json.encode(truth)})
        self.now_us += 3_600_000_000
        self.tell()

    def tell(self, start: str = "one") -> None:
        """What a replica writes of what it has counted: at 0.5 ms each, but for the slow ones."""
        if self.silent:
            return
        counts = {
            v: Count(n["ok"], n["ok"], n["failed"], [n["ok"] - n["slow"], n["ok"], n["ok"]], n["scored"]) for v, n in self.counted.items()
        }
        tally = Tally("test/1", 0, time.time_ns() // 1000, [1.0, 10.0], {MODEL: counts})
        self.client.hset(tallies_key(self.project), start, msgspec.json.encode(tally))

    def id(self, at_us: int) -> str:
        self.sent += 1
        ms = f"{at_us // 1000:012x}"
        return f"{ms[:8]}-{ms[8:]}-7000-8000-{self.sent:012x}"

    def live(self) -> int | None:
        return release.champion(self.settings.model_root, MODEL)

    def steps(self) -> list[str]:
        return [d.step for d in Journal(self.settings.state, MODEL).read()]

    def until(self, step: str, hours: int = 40) -> str:
        for _ in range(hours):
            self.serve()
            said = self.pilot().step()
            if step in self.steps():
                return said
        raise AssertionError(f"{step} did not come: {self.steps()}; {said}")

    def close(self) -> None:
        for key in (prediction_log_key, label_log_key, tallies_key):
            self.client.delete(key(self.project))
        for key in (labels_key, drift_key, quality_key):
            self.client.delete(key(self.project, MODEL))
        self.client.close()


@pytest.fixture
def world(bikes: Bikes, tmp_path: Path) -> Iterator[World]:
    made = World(bikes, tmp_path)
    yield made
    made.close()


def test_from_drift_to_promotion_with_every_step_in_the_journal(world: World) -> None:
    world.serve()
    assert world.pilot().step() == "nothing to do"
    world.drift(retrain=False)
    assert world.pilot().step() == "nothing to do", "a fault of a pipeline trains nothing"
    world.drift(number="v2")
    world.until("kept")
    assert world.steps() == ["triggered", "trained", "shadow", "canary", "promoted", "probation", "kept"]
    assert world.live() == 2
    now = release.read(world.settings.model_root, MODEL)
    assert now is not None
    assert (now.previous, now.canary, now.shadow) == (1, None, None)
    assert [s.what for s in now.history] == [
        "version 1 promoted",
        "version 2 in shadow",
        "version 2 answers 50% of keys",
        "shadow ended",
        "version 2 promoted",
    ]
    assert "drift: population: dock__charge" in now.history[1].why
    assert world.client.get(quality_key(world.project, MODEL))
    world.serve()
    assert world.pilot().step() == "nothing to do", "the same verdict does not train twice"
    world.drift(number="v3")
    assert "held: cooldown" in world.pilot().step()
    assert world.steps()[-1] == "held"
    (world.pilot().request_path).write_text("the boss asks")
    assert "begins its shadow" in world.pilot().step(), "a person is not held"
    assert world.trained[-1].text == "the boss asks"


def test_one_verdict_is_not_enough_where_two_are_asked(world: World) -> None:
    spec = world.case.model(MODEL)
    asked = spec.learning.triggers.model_copy(update={"drift_verdicts": 2})
    world.case.models[MODEL] = spec.model_copy(update={"learning": spec.learning.model_copy(update={"triggers": asked})})
    world.serve()
    for number, retrain, said in (("a", True, "nothing"), ("a", True, "nothing"), ("b", False, "nothing"), ("c", True, "nothing")):
        world.drift(retrain, number)
        assert said in world.pilot().step()
    world.drift(True, "d")
    assert "begins its shadow" in world.pilot().step()


def test_a_challenger_that_fails_a_gate_is_never_let_out(world: World) -> None:
    world.gates_pass = False
    world.serve()
    world.drift()
    assert "refused: gates failed: champion: by the test" in world.pilot().step()
    assert world.steps() == ["triggered", "trained", "refused"]
    now = release.read(world.settings.model_root, MODEL)
    assert now is not None
    assert (now.champion, now.shadow, now.canary) == (1, None, None)


@pytest.mark.parametrize(("role", "steps"), [("shadow", 1), ("canary", 2), ("champion", 4)])
def test_one_that_is_bad_in_production_only_is_ended_where_it_shows(world: World, role: str, steps: int) -> None:
    world.serve()
    world.drift()
    world.bad = lambda r, version: version == 2 and r == role
    last = {"shadow": "ended", "canary": "ended", "champion": "rolled back"}[role]
    said = world.until(last)
    assert "answers worse" in said
    assert world.steps()[2:] == [*["shadow", "canary", "promoted", "probation"][:steps], last]
    now = release.read(world.settings.model_root, MODEL)
    assert now is not None
    assert (now.champion, now.shadow, now.canary) == (1, None, None)
    if role == "champion":
        assert now.history[-1].what == "rolled back"


@pytest.mark.parametrize(("counts", "says"), [({"failed": 80}, "fails more often: 80 of"), ({"slow": 400}, "slower: p99 ")])
def test_faults_and_latency_end_a_canary_before_anything_else(world: World, counts: dict[str, int], says: str) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    world.counted[2]["ok"] += 400
    world.counted[1]["ok"] += 400
    world.counted[2] |= counts
    world.serve(4)
    assert says in world.pilot().step()
    assert (world.steps()[-1], world.live()) == ("ended", 1)


@pytest.mark.parametrize("phase", ["shadow", "canary", "probation"])
def test_without_the_replicas_counters_a_stage_waits_and_says_so(world: World, phase: str) -> None:
    world.serve()
    world.drift()
    world.until(phase)
    world.silent = True
    world.client.delete(tallies_key(world.project))
    before = world.steps()
    for _ in range(6):
        world.serve(120)
        said = world.pilot().step()
    assert "not known, so it waits: how the replicas fare" in said
    assert world.steps() == [*before, "waits"], "said once, and nothing else done"
    world.silent = False
    world.until({"shadow": "canary", "canary": "promoted", "probation": "kept"}[phase])


def test_in_probation_failures_of_long_ago_excuse_none_of_today(world: World) -> None:
    world.serve()
    world.counted[1] |= {"ok": 2000, "failed": 1900}  # an outage before there was a challenger
    world.drift()
    world.until("probation")
    world.serve()
    world.counted[2]["failed"] += 60
    world.tell()
    assert "fails more often: 60 of" in world.pilot().step()
    assert (world.steps()[-1], world.live()) == ("rolled back", 1)


def test_an_outage_of_both_versions_ends_no_probation(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    world.counted[1]["failed"] += 40  # in the time just before
    world.until("probation")
    world.serve()
    world.counted[2]["failed"] += 8
    world.until("kept")


def test_gates_that_compared_with_another_version_than_the_live_one_let_nothing_out(world: World) -> None:
    world.serve()
    world.drift()
    trained = world.train

    def train(reason: Reason, as_of_us: int) -> Gates | None:
        gates = trained(reason, as_of_us)
        root = world.settings.model_root / MODEL
        shutil.copytree(root / "1", root / "7")
        contract.write(root / "7", msgspec.structs.replace(contract.load(root / "1"), version=7))
        release.promote(world.settings.model_root, MODEL, 7)
        return gates

    world.train = train  # type: ignore[method-assign]
    world.pilot().step()
    del world.train
    assert "a person made version 7 live meanwhile" in world.pilot().step() or world.steps()[-1] == "ended"
    assert (world.steps()[-1], world.live()) == ("ended", 7)


def test_a_live_version_that_cannot_be_read_is_said_and_the_loop_goes_on(world: World) -> None:
    world.serve()
    path = world.settings.model_root / MODEL / "1" / contract.CONTRACT
    whole, stop, pilot = path.read_bytes(), threading.Event(), world.pilot()
    real, said = pilot.step, []

    def step() -> str:
        said.append("")
        path.write_bytes(b"{" if len(said) == 1 else whole)
        if len(said) == 2:
            stop.set()
        said[-1] = real()
        return said[-1]

    pilot.step = step  # type: ignore[method-assign]
    pilots.run(pilot, 0.01, stop)
    assert said == ["", "nothing to do"], "the first step did nothing, and the process lives"


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"triage": 5}', b"\xff", b"[" * 100_000, None])
def test_a_verdict_that_is_none_calls_for_nothing_and_is_named(world: World, raw: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    key = drift_key(world.project, MODEL)
    world.serve()
    if raw is None:
        world.client.rpush(key, b"x")
    else:
        world.client.set(key, raw)
    assert world.pilot().step() == "nothing to do"
    assert f"{key} is no verdict" in caplog.text
    world.client.delete(key)
    world.drift(number="v2")
    assert "begins its shadow" in world.pilot().step()


def test_tallies_that_are_no_hash_are_not_known(world: World) -> None:
    world.client.set(tallies_key(world.project), b"x")
    with pytest.raises(Unknown, match="no hash of tallies"):
        Counters(world.client, world.project, MODEL).read(time.time_ns() // 1000)


def test_a_restarted_replica_loses_no_fault_and_brings_none(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    world.tell("two")  # a second replica, which had counted the same, and is a new start: all of it is since then
    state = world.pilot().state
    added = since(*(Counters(world.client, world.project, MODEL).read(time.time_ns() // 1000)[0], state.counted or {}))
    assert added["one"][1].answered == 0
    assert added["two"][1].answered == world.counted[1]["ok"]


def test_an_older_state_has_no_counters_and_counts_from_now_on(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    pilot = world.pilot()
    path = pilot.home / "state.json"
    old = msgspec.json.decode(path.read_bytes())
    del old["counted"], old["as_of_us"]
    path.write_bytes(msgspec.json.encode(old | {"traffic": {"1": {"answered": 5, "failed": 0, "latency": {}}}}))
    assert pilot.state.counted is None
    world.serve()
    pilot.step()
    assert pilot.state.counted is not None
    world.until("promoted")


def test_on_historical_data_that_nobody_asked_about_the_loop_waits_in_the_data_s_own_time(world: World) -> None:
    """What `up` starts: a live version, tables of years ago, no request yet; and a state that the wall's clock had spoilt."""
    scheduled = LEARNING.triggers.model_copy(update={"schedule_days": 30.0, "new_labels": 1})
    spec = world.case.model(MODEL)
    world.case.models[MODEL] = spec.model_copy(update={"learning": LEARNING.model_copy(update={"triggers": scheduled})})
    asked_us = START_US - 3 * DAY_US
    table = pa.table(
        {
            spec.spine.label: pa.array([0, 1, None], pa.int64()),
            spec.spine.label_timestamp: pa.array([asked_us - DAY_US, asked_us, START_US], pa.timestamp("us", "UTC")),
        }
    )
    folder = world.settings.offline_root / spec.spine.table
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part.parquet")
    for allowed in ("embedded", "cluster"):
        world.settings = world.settings.model_copy(update={"profile": allowed})
        live = world.settings.model_root / MODEL / "1"
        made = contract.load(live)
        world.rewrite(msgspec.structs.replace(made, training_set={**made.training_set, "known_upto_us": asked_us}))
        pilot, stop = world.pilot(), threading.Event()
        real, said = pilot.step, []

        def step(real: Callable[[], str] = real, said: list[str] = said, stop: threading.Event = stop) -> str:
            said.append(real())
            if len(said) == 3:
                stop.set()
            return said[-1]

        pilot.step = step  # type: ignore[method-assign]
        pilots.run(pilot, 0.01, stop)
        assert said == ["nothing to do"] * 3
        assert world.trained == []
        # and with truths that the live version does not know, it trains as of the data's own time, on what there is
        world.rewrite(msgspec.structs.replace(made, training_set={**made.training_set, "known_upto_us": asked_us - 40 * DAY_US}))
        pilot.save(State(trained_us=[time.time_ns() // 1000]))
        assert "begins its shadow" in real()
        assert [r.at_us for r in world.trained] == [asked_us]
        assert "40.0 days" in world.trained[0].text
        world.trained.clear()
        shutil.rmtree(pilot.home)
        release.shadow(world.settings.model_root, MODEL, None, "again")


def test_a_person_who_decides_meanwhile_has_decided(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    shutil.copytree(world.settings.model_root / MODEL / "1", world.settings.model_root / MODEL / "9")
    contract = world.settings.model_root / MODEL / "9" / "contract.json"
    contract.write_text(json.dumps(json.loads(contract.read_text()) | {"version": 9}))
    release.promote(world.settings.model_root, MODEL, 9, "by hand")
    assert "a person made version 9 live" in world.pilot().step()
    now = release.read(world.settings.model_root, MODEL)
    assert now is not None
    assert (now.champion, now.canary) == (9, None)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", range(12))
def test_a_kill_at_any_point_leaves_no_half_promoted_model_and_no_double_step(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    choose = random.Random(seed)
    armed = True
    monkeypatch.setattr(pilots, "ATTEMPTS", 50)  # a training killed so often would be given up

    def deadly(owner: Any, name: str) -> None:
        before = getattr(owner, name)

        def run(*arguments: Any, **named: Any) -> Any:
            if armed and choose.random() < 0.25:
                raise Killed
            made = before(*arguments, **named)
            if armed and choose.random() < 0.25:
                raise Killed
            return made

        monkeypatch.setattr(owner, name, run)

    for owner, name in (
        (release, "_change"),
        (Autopilot, "save"),
        (decisions.Journal, "write"),
        (World, "train"),
        (Staging, "_withdraw"),
    ):
        deadly(owner, name)
    bad = seed % 2
    world.bad = lambda role, version: bool(bad) and version == 2 and role == "champion"
    world.serve()
    world.drift()
    kills, last = 0, "rolled back" if bad else "kept"
    for _ in range(200):
        try:
            world.pilot().step()
        except Killed:
            kills += 1
            continue  # and at once again, as a supervisor would
        now = release.read(world.settings.model_root, MODEL)
        assert now is not None
        assert now.champion in (1, 2)
        if last in world.steps():
            break
        world.serve(40)
    armed = False
    world.pilot().step()
    assert kills > 1
    expected = ["triggered", "trained", "shadow", "canary", "promoted", "probation", last]
    assert world.steps() == expected, "each once, in order"
    assert world.live() == (1 if bad else 2)
    assert len(list((world.settings.model_root / MODEL).glob("[0-9]*"))) == 2, "one training, one version"
    archived = world.pilot().archive.predictions(MODEL)
    assert len(set(archived["prediction_id"].to_pylist())) == archived.num_rows == world.sent


def test_two_at_once_are_refused_and_a_broken_state_says_what_to_do(world: World) -> None:
    pilot = world.pilot()
    with pilot.alone(), pytest.raises(AutopilotError, match="already"):
        world.pilot().step()
    world.serve()
    (pilot.home / "state.json").write_text("{")
    with pytest.raises(AutopilotError, match="remove it"):
        pilot.step()


def test_a_journal_line_cut_short_by_a_kill_is_written_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "m")
    journal.write(Decision("a/triggered", 1, 2, "triggered", "x"))
    journal.path.write_bytes(journal.path.read_bytes() + b'{"id":"a/tra')
    again = Journal(tmp_path, "m")
    assert [d.id for d in again.read()] == ["a/triggered"]
    assert again.write(Decision("a/trained", 1, 2, "trained", "y"))
    assert not again.write(Decision("a/trained", 1, 2, "trained", "y"))
    assert [d.id for d in Journal(tmp_path, "m").read()] == ["a/triggered", "a/trained"]


def test_without_a_live_version_there_is_nothing_to_learn_from(world: World) -> None:
    (world.settings.model_root / MODEL / "release.json").unlink()
    assert "no version of turned_away is live" in world.pilot().step()


def test_it_goes_on_when_redis_is_back(world: World) -> None:
    pilot, stop, steps = world.pilot(), threading.Event(), []
    real = pilot.step

    def step() -> str:
        import redis

        steps.append(len(steps))
        if len(steps) < 3:
            raise redis.ConnectionError("away")
        if len(steps) == 3:
            raise redis.ResponseError("Command # 1 (HSET a b caused error: c) of pipeline caused error: WRONGTYPE Operation against a key")
        stop.set()
        return real()

    world.serve()
    pilot.step = step  # type: ignore[method-assign]
    beats: list[str] = []
    pilots.run(pilot, 0.01, stop, beats.append)
    assert len(steps) == 4
    away = "Redis does not answer: away; nothing is lost, the next step follows"
    refuses = "Redis refuses: WRONGTYPE Operation against a key; nothing is lost, the next step follows"
    assert beats == [away, away, refuses, ""]


def test_a_training_that_fails_is_said_until_one_works(world: World) -> None:
    pilot, stop, texts = world.pilot(), threading.Event(), iter(("training failed, attempt 1 of 3", "trained", "nothing to do"))

    def step() -> str:
        text = next(texts)
        pilot.save(State(phase="training", attempts=1) if "failed" in text else State(phase="shadow", attempts=1))
        if text == "nothing to do":
            stop.set()
        return text

    pilot.step = step  # type: ignore[method-assign]
    beats: list[str] = []
    pilots.run(pilot, 0.01, stop, beats.append)
    assert beats == ["training failed, attempt 1 of 3", "", ""]


def test_only_the_server_s_faults_are_counted_as_it_counted(world: World) -> None:
    from serving.telemetry.metrics import LATENCY_MS, Metrics

    counted = Metrics()
    for version, failures in ((1, 0), (2, 3)):
        mine = counted.model(MODEL, version, [])
        for i in range(400):
            mine.ok += 1
            mine.instances += 2
            mine.latency.observe([0.1, 0.1, 0.6 if i % 50 else 4.0])
        for status in (400, 404, 413, 422, 499):  # what the client did
            counted.failed(MODEL, version, status)
        for status in (500, 503, 504)[:failures]:
            counted.failed(MODEL, version, status)
    counted.failed(MODEL, None, 503)
    counted.shadow(MODEL, 3).scored.inc(7)
    counted.shadow(MODEL, 3).failed.inc(2)
    bounds = [float(b) for b in LATENCY_MS]
    tally = Tally("r", 0, time.time_ns() // 1000, bounds, counted.counts())
    for start in ("a", "b"):
        world.client.hset(tallies_key(world.project), start, msgspec.json.encode(tally))
    found, read = Counters(world.client, world.project, MODEL).read(time.time_ns() // 1000)
    one, two, beside = summed(found.values(), 1, read), summed(found.values(), 2, read), summed(found.values(), 3, read, shadow=True)
    assert (one.answered, one.failed, one.instances) == (800, 0, 1600)
    assert (two.answered, two.failed) == (800, 6)
    assert (beside.answered, beside.failed, beside.instances) == (14, 4, 14)
    assert one.p99_ms is not None
    assert 3 < one.p99_ms <= 5


def test_two_versions_are_compared_on_what_was_asked(world: World) -> None:
    from training.evaluation.comparison import ComparisonError
    from training.retraining.version_comparison import head_to_head

    pilot = world.pilot()
    with pytest.raises(ComparisonError, match="no request"):
        head_to_head(pilot.archive, world.settings.model_root, world.case.model(MODEL), 1, 2)
    world.serve()
    world.drift()
    world.bad = lambda role, version: role == "canary"
    world.until("canary")
    for _ in range(6):
        world.serve(100)
    pilot.archive.run(world.client)
    found = head_to_head(pilot.archive, world.settings.model_root, world.case.model(MODEL), 2, 1)
    assert found.answered[1] > 0
    assert found.answered[2] > 200
    assert {m.metric: m.difference < 0 for m in found.metrics} == {"auc": True, "log_loss": True, "brier": True, "calibration_error": True}
    assert all(m.high < 0 for m in found.metrics[:3])
    assert "version 2 is worse" in found.verdict
