"""A made-up training set of two features, and the spec of a model on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.records.contract import Input, RequestField
from feature_repo.spec.model import ModelSpec
from training.data.training_set import TrainingSet

START = datetime(2020, 1, 1, tzinfo=UTC)
SPEC = {
    "name": "model",
    "feature_service": "service",
    "spine": {"table": "examples", "id": ["id"], "label": "label", "label_timestamp": "known"},
    "split": {
        "train": {"start": "2020-01-01", "end": "2020-01-21"},
        "valid": {"start": "2020-01-21", "end": "2020-01-26"},
        "test": {"start": "2020-01-26", "end": "2020-01-31"},
    },
    "parameters": {"learning_rate": 0.2, "num_leaves": 7, "min_data_in_leaf": 20},
    "rounds": 30,
    "early_stopping": 5,
    "gates": [{"metric": "auc", "on": "test", "min": 0.7, "max": 0.999}],
    "slices": ["region"],
}


def spec(**changes: object) -> ModelSpec:
    return ModelSpec.model_validate({**SPEC, **changes})


def make(path: Path) -> TrainingSet:
    """Write the set to `path`."""
    random = np.random.default_rng(5)
    n = 6000
    x, z = random.normal(size=n), random.normal(size=n)
    x[random.random(n) < 0.1] = np.nan
    label = (np.nan_to_num(x) + random.normal(size=n) > 0.5).astype(int)
    at = [START + timedelta(minutes=7.2 * i) for i in range(n)]
    table = pa.table(
        {
            "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")),
            "id": np.arange(n),
            "region": np.array(["north", "south", "tiny"])[np.where(random.random(n) < 0.01, 2, random.integers(0, 2, n))],
            "label": pa.array(label, mask=random.random(n) < 0.05),
            "known": pa.array([a + timedelta(hours=5) for a in at], pa.timestamp("us", "UTC")),
            "view__x": pa.array(x, mask=np.isnan(x)),
            "view__z": z,
        }
    )
    pq.write_table(table, path)
    inputs = [Input(f"view__{c}", f"view:{c}", "feature", "double") for c in "xz"]
    return TrainingSet(path, "h" * 64, n, inputs, [RequestField("id", "entity", "int64", 1)], {"view:x": "a"}, "d", "project")
