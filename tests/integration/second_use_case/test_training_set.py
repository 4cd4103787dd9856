"""Joined, trained and scored in batch: another field, another folder, no code changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bikes.oracle import close, expected, oracle_events
from tests.bikes.platform import Bikes


def test_every_joined_feature_equals_the_oracle(bikes: Bikes) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(bikes.training_set.path)
    rows = table.take(np.random.default_rng(3).choice(table.num_rows, 150, replace=False)).to_pylist()
    for view in bikes.views.values():
        events = oracle_events(bikes, view)
        for row in rows:
            want = expected(view, events, tuple(row[k] for k in view.key_names), round(row["asked"].timestamp() * 1e6))
            for name, value in want.items():
                assert close(row[f"{view.name}__{name}"], value), (view.name, name, row, value)


def test_one_example_in_is_one_row_out(bikes: Bikes) -> None:
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    examples = ds.dataset(bikes.settings.offline_root / "requests", format="parquet").to_table()
    table = pq.read_table(bikes.training_set.path)
    assert sorted(table["request"].to_pylist()) == sorted(examples["request"].to_pylist())


def test_the_training_set_is_the_same_bytes_again(bikes: Bikes) -> None:
    from training.data.training_set import build

    assert build(bikes.spark, bikes.case, bikes.settings, bikes.spec).hash == bikes.training_set.hash


def test_batch_scores_are_the_scores_that_training_and_serving_compute(bikes: Bikes, tmp_path: Path) -> None:
    """The training set's own rows, scored in Spark from the raw instances, against the model on the joined matrix."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from serving.batch.score import ScoreError, score_table
    from serving.inference.scorer import Scorer
    from training.data.splits import matrix

    sample = pq.read_table(bikes.training_set.path).slice(300, 200)
    fields = [f.name for f in bikes.contract.request]
    spine = sample.select([*fields, "request"]).append_column("event_timestamp", sample["asked"])
    pq.write_table(spine, tmp_path / "in.parquet")
    version = bikes.contract.version
    done = score_table(bikes.spark, bikes.case, bikes.settings, "turned_away", version, tmp_path / "in.parquet", tmp_path / "out", None)
    assert (done.rows, done.refused) == (200, 0)
    out = pq.read_table(tmp_path / "out").sort_by("request")
    scorer = Scorer(bikes.settings.model_root / "turned_away" / str(version) / "model.onnx", len(bikes.contract.inputs))
    want = sample.append_column("want", pa.array(scorer.score(matrix(sample, bikes.contract.inputs)))).sort_by("request")
    assert out["score"].to_pylist() == want["want"].to_pylist()
    assert set(out["model_version"].to_pylist()) == {version}
    pq.write_table(spine.drop_columns(["party"]), tmp_path / "less.parquet")
    with pytest.raises(ScoreError, match="lacks party"):
        score_table(bikes.spark, bikes.case, bikes.settings, "turned_away", version, tmp_path / "less.parquet", tmp_path / "out", None)
    with pytest.raises(ScoreError, match="nothing at"):
        score_table(bikes.spark, bikes.case, bikes.settings, "turned_away", version, tmp_path / "no.parquet", tmp_path / "out", None)


def test_the_join_on_spark_gives_the_very_bytes_of_the_join_in_process(bikes: Bikes, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.settings import load_settings
    from training.data.training_set import build

    monkeypatch.setattr(load_settings(), "join_in_process_rows", 0)
    assert build(bikes.spark, bikes.case, bikes.settings, bikes.spec).hash == bikes.training_set.hash
