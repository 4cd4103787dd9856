"""The loop on the second use case: trigger to promotion, challengers that are bad in production only, and a kill at every point."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo import contract, decision, release
from feature_repo.decision import Decision, Journal
from feature_repo.learning import Learning
from feature_repo.prediction import Label, Prediction, drift_key, label_log_key, labels_key, quality_key, stream_key
from feature_repo.use_case import UseCase
from streaming.store import connect
from tests.bikes.platform import Bikes
from training import autopilot as pilots
from training.autopilot import Autopilot, AutopilotError
from training.counterfactual import scored
from training.retrain import TRIGGER, Checked, Gates, find, write_gates
from training.trigger import Reason

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
        self.metrics: str | None = None

    def pilot(self) -> Autopilot:
        return Autopilot(self.client, self.settings, self.case, MODEL, self.train, lambda: self.metrics)

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
        gates = Gates(version, 1, [Checked("champion", self.gates_pass, "by the test")])
        write_gates(self.settings, MODEL, gates)
        return gates

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
                self.client.xadd(stream_key(self.project), {"p": msgspec.json.encode(one)})
            truth = Label(MODEL, entries[0][0], int(labels[i]), at + 1_000_000)
            self.client.xadd(label_log_key(self.project), {"l": msgspec.json.encode(truth)})
        self.now_us += 3_600_000_000

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
        for key in (stream_key, label_log_key):
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


def metrics(failed: int, slow: bool = False) -> str:
    lines = ["# TYPE headrace_requests_total counter"]
    for version, bad in ((1, 0), (2, failed)):
        for status, count in (("200", 1000), ("503", bad)):
            lines.append(f'headrace_requests_total{{model="{MODEL}",version="{version}",status="{status}"}} {count}')
    lines.append("# TYPE headrace_request_ms histogram")
    for version, p99 in ((1, "1.0"), (2, "10.0" if slow else "1.0")):
        for le, count in (("1.0", 1000 if p99 == "1.0" else 10), ("10.0", 1000), ("+Inf", 1000)):
            lines.append(f'headrace_request_ms_bucket{{model="{MODEL}",version="{version}",le="{le}"}} {count}')
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("after", "says"), [(metrics(80), "fails more often: 80 of 1,080"), (metrics(0, slow=True), "slower: p99 9.")])
def test_errors_and_latency_end_a_canary_before_anything_else(world: World, after: str, says: str) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    world.metrics = after
    world.serve()
    assert says in world.pilot().step()
    assert (world.steps()[-1], world.live()) == ("ended", 1)


def test_a_person_who_decides_meanwhile_has_decided(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    shutil.copytree(world.settings.model_root / MODEL / "1", world.settings.model_root / MODEL / "9")
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
        (decision.Journal, "write"),
        (World, "train"),
        (pilots.Autopilot, "_withdraw"),
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
        stop.set()
        return real()

    world.serve()
    pilot.step = step  # type: ignore[method-assign]
    pilots.run(pilot, 0.01, stop)
    assert len(steps) == 3


def test_the_server_s_own_metrics_are_read_as_it_counted() -> None:
    from serving.metrics import Metrics
    from training.traffic import by_version

    counted = Metrics()
    for version, failures in ((1, 0), (2, 3)):
        mine = counted.model(MODEL, version, [])
        for i in range(400):
            mine.ok += 1
            mine.latency.observe([0.1, 0.1, 0.6 if i % 50 else 4.0])
        for _ in range(failures):
            counted.failed(MODEL, version, 422)
    found = by_version(counted.text().decode(), MODEL)
    assert {v: (t.answered, t.failed) for v, t in found.items()} == {1: (400, 0), 2: (400, 3)}
    assert found[1].p99_ms == pytest.approx(4, abs=1)
    added = found[1].since(found[1])
    assert (added.answered, added.p99_ms) == (0, None)


def test_two_versions_are_compared_on_what_was_asked(world: World) -> None:
    from training.comparison import ComparisonError
    from training.head_to_head import head_to_head

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
