"""Live quality: intervals that cover, truths by id and by example, and what was not known yet does not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from feature_repo.records.prediction import Label, Prediction
from feature_repo.records.redis_keys import label_log_key, prediction_log_key
from feature_repo.spec.model import ModelSpec
from streaming.offline.archive import Archive
from streaming.online.store import connect
from training.monitoring import live_quality
from training.monitoring.live_quality import by_month, estimates, labelled, measure

SPEC = ModelSpec.model_validate(
    {
        "name": "model",
        "feature_service": "service",
        "spine": {"table": "examples", "id": ["basket"], "label": "label", "label_timestamp": "known"},
        "split": {"train": {"start": "2020-01-01", "end": "2020-01-21"}, "valid": {"start": "2020-01-21", "end": "2020-01-26"}},
        "slices": ["shop"],
    }
)
START_US = 1_600_000_000_000_000


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    big_score = random.beta(1, 3, 400_000)
    big_label = (random.random(400_000) < big_score).astype(float)
    exact = {"auc": roc_auc_score(big_label, big_score), "brier": np.mean((big_score - big_label) ** 2), "base_rate": big_label.mean()}
    covered = dict.fromkeys(exact, 0)
    for _ in range(300):
        rows = random.integers(0, len(big_score), 400)
        found = estimates(big_label[rows], big_score[rows])
        for name, value in exact.items():
            covered[name] += found[name].low <= value <= found[name].high
    assert all(0.91 <= n / 300 <= 0.985 for n in covered.values()), covered


def test_delong_is_the_variance_of_the_auc_by_its_definition() -> None:
    random = np.random.default_rng(0)
    label, score = (random.random(80) < 0.4).astype(float), random.integers(0, 9, 80) / 9
    p, n = score[label == 1], score[label == 0]
    wins = (p[:, None] > n[None, :]) + 0.5 * (p[:, None] == n[None, :])
    variance = wins.mean(axis=1).var(ddof=1) / len(p) + wins.mean(axis=0).var(ddof=1) / len(n)
    found = estimates(label, score)["auc"]
    assert found.high - found.low == pytest.approx(2 * 1.959963984540054 * variance**0.5)
    assert found.value == pytest.approx(wins.mean())


@pytest.fixture
def archive(tmp_path: Path, redis_url: str) -> Any:
    client = connect(redis_url)
    made = Archive(tmp_path / "offline", tmp_path / "models", tmp_path / "archive", "qual")
    yield made, client
    client.delete(prediction_log_key("qual"), label_log_key("qual"))
    client.close()


def number(i: int) -> str:
    ms = f"{START_US // 1000 + i * 60_000:012x}"
    return f"{ms[:8]}-{ms[8:]}-7000-8000-{i:012x}"


def serve(client: Any, n: int, version: int = 1, role: str = "champion", offset: int = 0, of: int | None = None) -> None:
    random = np.random.default_rng(offset)
    for i in range(offset, offset + n):
        at = START_US + i * 60_000_000
        shadow = None if of is None else number(i - offset + of)
        one = Prediction(
            number(i), "model", version, at, at, {"basket": i, "shop": "ab"[i % 2]}, [1.0], "f", {}, random.random(), role, shadow
        )
        client.xadd(prediction_log_key("qual"), {"p": msgspec.json.encode(one)})


def truths(client: Any, which: range, after_s: int = 600) -> None:
    for i in which:
        known = START_US + i * 60_000_000 + after_s * 1_000_000
        client.xadd(label_log_key("qual"), {"l": msgspec.json.encode(Label("model", number(i), int(i % 3 == 0), known))})


def test_versions_days_and_what_is_not_known_yet(archive: Any) -> None:
    made, client = archive
    serve(client, 300)
    serve(client, 200, version=2, role="shadow", offset=1000, of=0)
    truths(client, range(250))
    made.run(client)
    found = measure(made, SPEC)
    assert found is not None
    by = {(v.version, v.role): v for v in found.versions}
    assert (by[1, "answered"].predictions, by[1, "answered"].labelled) == (300, 250)
    assert by[2, "shadow"].labelled == 200, "a shadow's truth is its answer's"
    assert found.unlabelled == 50
    assert found.delay_s == {"p50": 600.0, "p99": 600.0}
    assert sum(d.measured.labelled for d in found.days) == 250
    assert [(m.day, m.measured.predictions) for m in by_month(made, SPEC)] == [("2020-09", 300)]
    assert by[1, "answered"].metrics["base_rate"].value == pytest.approx(84 / 250)
    early = labelled(made, SPEC, upto_us=START_US + 100 * 60_000_000)
    assert len(early.score) == 100
    assert int((early.known_us >= 0).sum()) == 90, "truths from later do not count"
    small = measure(made, SPEC, window=100)
    assert small is not None
    assert small.versions[1].labelled == 100


def test_of_several_truths_the_one_known_latest_by_the_moment_holds(archive: Any) -> None:
    made, client = archive
    serve(client, 3)
    told = [(0, 1, 10), (0, 0, 50), (1, 0, 20), (1, 1, 5), (2, 1, 40)]  # (prediction, label, seconds after the start), as they came in
    for i, label, after in told:
        client.xadd(label_log_key("qual"), {"l": msgspec.json.encode(Label("model", number(i), label, START_US + after * 1_000_000))})
        made.run(client)

    def known(after: int | None) -> list[float]:
        rows = labelled(made, SPEC, None if after is None else START_US + 120_000_001 + after * 1_000_000)
        return [None if v != v else v for v in rows.label.tolist()]  # type: ignore[misc]

    assert known(None) == [0, 0, 1]
    assert len(labelled(made, SPEC).label) == 3, "one row per prediction"
    quality_at = {after: live_quality._in_force(made.labels("model"), START_US + after * 1_000_000 + 1) for after in (4, 5, 10, 20, 50)}
    by = {a: dict(zip(t["prediction_id"].to_pylist(), t["label"].to_pylist(), strict=True)) for a, t in quality_at.items()}
    assert by == {
        4: {},
        5: {number(1): 1},
        10: {number(0): 1, number(1): 1},
        20: {number(0): 1, number(1): 0},
        50: {number(0): 0, number(1): 0, number(2): 1},
    }


def test_without_feedback_the_spine_has_the_truth(archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, client = archive
    serve(client, 60)
    made.run(client)
    folder = made.root / "examples" / "day=2020-09-13"
    folder.mkdir(parents=True)
    known = pa.array([START_US + i * 60_000_000 + 5 for i in range(40)], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"basket": list(range(40)), "label": [1, 0] * 20, "known": known}), folder / "x.parquet")
    assert labelled(made, SPEC).known_us.max() == -1, "the request's fields are not columns: the version's contract is not there"
    table = made.predictions("model")
    baskets = pa.array([msgspec.json.decode(r)["basket"] for r in table["request"].to_pylist()])
    monkeypatch.setattr(Archive, "predictions", lambda *_: table.append_column("basket", baskets))
    rows = labelled(made, SPEC)
    assert int((rows.known_us >= 0).sum()) == 40
    assert live_quality.estimates(rows.label[:40], rows.score[:40])["base_rate"].value == 0.5


@pytest.mark.slow
def test_an_interval_over_days_knows_that_days_differ() -> None:
    random = np.random.default_rng(1)
    covered, naive = 0, 0
    for _ in range(150):
        day = np.repeat(np.arange(12), 150)
        shift = random.normal(0, 1.0, 12)[day]
        label = (random.random(len(day)) < 1 / (1 + np.exp(-shift))).astype(float)
        score = np.full(len(day), 0.5)
        found = live_quality.by_days(label, score, day * 86_400_000_000, "base_rate")
        assert found is not None
        covered += found.low <= 0.5 <= found.high
        plain = estimates(label, score)["base_rate"]
        naive += plain.low <= 0.5 <= plain.high
    assert covered >= 0.88 * 150
    assert naive <= 0.6 * 150, "rows taken for independent are far too sure"
    assert live_quality.by_days(label[:300], score[:300], day[:300] * 86_400_000_000, "base_rate") is None, "two days say nothing"
