"""A made-up pump: its versions, its prediction log as serving writes it, and a watch of it."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import redis

from feature_repo.records import contract, prediction
from feature_repo.records.redis_keys import drift_key, prediction_log_key
from feature_repo.records.verdict import Verdict
from infra.settings import Settings
from serving.monitoring import watch
from serving.monitoring.hours import HOUR_US, Matrix, Moments

NAMES = ["temperature", "pressure", "flow"]
MODEL = "pump"


def rows(count: int, seed: int, shift: float = 0.0) -> Matrix:
    """float64 [count, 4]: NAMES and the score; `flow` is null in a tenth of the rows, `pressure` may be shifted."""
    rng = np.random.default_rng(seed)
    matrix = np.column_stack(
        [rng.normal(20, 5, count), rng.lognormal(0, 0.5, count) + shift, rng.normal(size=count), rng.beta(2, 5, count)]
    )
    matrix[rng.random(count) < 0.1, 2] = np.nan
    return matrix


def register(settings: Settings, version: int, reference: Matrix, moments: Moments | None = None) -> None:
    folder = settings.model_root / MODEL / str(version)
    folder.mkdir(parents=True)
    (folder / contract.MODEL).write_bytes(b"a model")
    frame = pd.DataFrame(reference, columns=[*NAMES, "score"])
    if moments is not None:
        frame["at"] = pd.to_datetime(moments, unit="us", utc=True)
        frame["y"] = np.arange(len(frame)) % 4 == 0
    frame.to_parquet(folder / contract.REFERENCE, index=False)
    contract.write(
        folder,
        contract.Contract(
            model=MODEL,
            version=version,
            project="p",
            feature_service="s",
            definitions={},
            definition_hash="",
            inputs=[contract.Input(n, f"v:{n}", "feature", "float64") for n in NAMES],
            request=[],
            label="y",
            label_delay="",
            deadline_ms=100,
            split={},
            training_set={},
            parameters={},
            metrics={},
            slices={},
            gates=[],
            reference={},
            parity=contract.Parity(0, 0.0),
            run_id="",
            created="",
            files={n: contract.sha256(folder / n) for n in (contract.MODEL, contract.REFERENCE)},
        ),
    )


class Log:
    """Writes the prediction log as serving does."""

    def __init__(self, client: redis.Redis, project: str) -> None:
        self.client, self.project, self.count = client, project, 0

    def write(self, matrix: Matrix, version: int = 1, model: str = MODEL, apart_us: int = 1_000_000, status: str = "fff") -> None:
        with self.client.pipeline(transaction=False) as pipe:
            for row in matrix:
                values = [None if np.isnan(v) else float(v) for v in row[:-1]]
                at = apart_us * self.count
                marks = {"v": prediction.Mark(at - 5_000_000, 0, None)}
                entry = prediction.Prediction(str(self.count), model, version, at, at, {}, values, status, marks, float(row[-1]))
                pipe.xadd(prediction_log_key(self.project), {"p": msgspec.json.encode(entry)})
                self.count += 1
            pipe.execute()

    def latest(self) -> Verdict | None:
        raw = self.client.get(drift_key(self.project, MODEL))
        return msgspec.json.decode(raw, type=Verdict) if isinstance(raw, bytes) else None

    def pending(self) -> int:
        answer = self.client.xpending(prediction_log_key(self.project), f"watch:{MODEL}")
        return int(answer["pending"])  # type: ignore[index, call-overload]


def once(settings: Settings, project: str, window: int = 400, step: int = 100) -> dict[str, int]:
    return watch.run(settings, project, MODEL, window=window, step=step, once=True)


def daily(days: int, seed: int) -> tuple[Matrix, Moments]:
    """Rows of each hour of some days: a day's temperature lasts for days."""
    hours = np.repeat(np.arange(days * 24), 4)
    matrix, rng = rows(len(hours), seed), np.random.default_rng(seed)
    lasting = np.convolve(rng.normal(0, 6, days + 4), np.ones(5) / 5, "valid")
    matrix[:, 0] += lasting[hours // 24]
    return matrix, (hours * HOUR_US).astype(np.int64)
