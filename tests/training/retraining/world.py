"""What is outside the loop, on the second use case: a server, its replicas' counters, and truths that come in later."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.records import contract, release
from feature_repo.records.decisions import Journal
from feature_repo.records.prediction import Label, Prediction
from feature_repo.records.redis_keys import held_key, label_log_key, labels_key, prediction_log_key, quality_key, tallies_key
from feature_repo.records.replica_tally import Count, Tally
from feature_repo.records.verdict import Evidence, FeatureVerdict, OutlierVerdict, Place, Span, Triage, Verdict, history_path
from feature_repo.spec.retraining import Learning
from feature_repo.spec.use_case import UseCase
from streaming.online.store import connect
from tests.bikes.platform import Bikes
from training.data.left_out import Interval
from training.evaluation.rescoring import scored
from training.gates.record import Checked, Gates, write_gates
from training.retraining.autopilot import Autopilot
from training.retraining.retrain import TRIGGER, find
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
        self.left_out: list[list[Interval]] = []
        self.gates_pass = True
        self.bad: Callable[[str, int], bool] = lambda role, version: False
        """Whether a version's answers are spoilt, in production only."""
        self.counted: dict[int, dict[str, int]] = {}
        self.silent = False
        """Whether the replicas write no counters."""

    def pilot(self) -> Autopilot:
        self.tell()  # as every second
        return Autopilot(self.client, self.settings, self.case, MODEL, self.train)

    def train(self, reason: Reason, as_of_us: int, left_out: Sequence[Interval]) -> Gates | None:
        """A training that takes no time: the first version again, under a number of its own."""
        self.trained.append(reason)
        self.left_out.append(list(left_out))
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

    def drift(self, retrain: bool = True, number: str = "v1", proof: bool = False, quiet: bool = False, place: Place | None = None) -> None:
        """What the watch says next: a change where it calls for a training, or a fault that it suspects, or has proven at a place."""
        cause: Any = "population change" if retrain else "pipeline fault"
        moved = FeatureVerdict("dock__charge", 0.01, 0.4, 0.0, 0.0, True)
        score = FeatureVerdict("score", 1.0, 0.0, 0.0, 0.0, False)
        verdict = Verdict(
            id=number,
            model=MODEL,
            version=self.live() or 0,
            at_us=self.now_us,
            window=Span(100, self.now_us - 3_600_000_000, self.now_us),
            drift=not quiet,
            features=[moved],
            score=score,
            outliers=OutlierVerdict(0.0, 0.01, 1.0, False),
            detector="scipy",
            triage=None if quiet else Triage(cause, "dock: charge moved", ["dock"], [], retrain, proof),
        )
        if place is not None and verdict.triage is not None:
            shown = [Evidence(place, "dock", cause, "charge is -1", proof)]
            verdict = msgspec.structs.replace(verdict, triage=msgspec.structs.replace(verdict.triage, evidence=shown))
        path = history_path(self.settings, MODEL)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(verdict) + b"\n")

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
        for key in (labels_key, held_key, quality_key):
            self.client.delete(key(self.project, MODEL))
        self.client.close()
