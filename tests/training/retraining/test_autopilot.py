"""The loop on the second use case: trigger to promotion, challengers that are bad in production only, and a kill at every point."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.records import contract, decisions, release
from feature_repo.records.redis_keys import quality_key
from feature_repo.records.verdict import history_path
from feature_repo.triggers.base import DAY_US
from tests.training.retraining.world import LEARNING, MODEL, START_US, World
from training.gates.record import Gates
from training.retraining import autopilot as pilots
from training.retraining.autopilot import Autopilot
from training.retraining.loop import AutopilotError
from training.retraining.loop_state import State
from training.retraining.staging import Staging
from training.retraining.triggers import Reason


def test_from_drift_to_promotion_with_every_step_in_the_journal(world: World) -> None:
    world.serve()
    assert world.pilot().step() == "nothing to do"
    world.drift(retrain=False)
    assert "held: a fault is suspected, not proven: for 7 days" in world.pilot().step(), "a fault of a pipeline trains nothing yet"
    world.drift(number="v2")
    world.until("kept")
    assert world.steps() == ["held", "triggered", "trained", "shadow", "canary", "promoted", "probation", "kept"]
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
    assert "drift: population change: dock__charge" in now.history[1].why
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
    for number, retrain, said in (("a", True, "nothing"), ("a", True, "nothing"), ("b", False, "held"), ("c", True, "nothing")):
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


def test_gates_that_compared_with_another_version_than_the_live_one_let_nothing_out(world: World) -> None:
    world.serve()
    world.drift()
    trained = world.train

    def train(reason: Reason, as_of_us: int, left_out: Any) -> Gates | None:
        gates = trained(reason, as_of_us, left_out)
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
    path = history_path(world.settings, MODEL)
    world.serve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if raw is None:
        path.mkdir()
        assert world.pilot().step() == "nothing to do"
        assert f"{path} cannot be read" in caplog.text
        return
    path.write_bytes(raw + b"\n")
    assert world.pilot().step() == "nothing to do"
    assert f"{path}: a line is no verdict" in caplog.text
    world.drift()
    assert "begins its shadow" in world.pilot().step(), "the next line is read"


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
