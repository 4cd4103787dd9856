"""Drift and outlier detection by Alibi Detect: TabularDrift and IForest behind the interface of `serving.monitoring.detectors.base`.

Importing takes about 7 s, so only the watching process does, and only when `HEADRACE_DETECTOR=alibi`. Alibi Detect is under the Business
Source Licence 1.1: production use needs a licence from Seldon (README, Licence). `HEADRACE_DETECTOR=scipy` needs none.
"""

from __future__ import annotations

import logging
import os
import warnings

import numpy as np

# on import transformers tells of missing frameworks that we do not use
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
logging.getLogger("transformers").setLevel(logging.ERROR)

from alibi_detect.cd import TabularDrift  # noqa: E402
from alibi_detect.od import IForest  # noqa: E402

from serving.monitoring.detectors.base import DriftDetector, OutlierDetector  # noqa: E402
from serving.monitoring.hours import Matrix  # noqa: E402

logging.getLogger("alibi_detect").setLevel(logging.ERROR)


class Drift(DriftDetector):
    """One `TabularDrift` per column, since each column's non-null reference has its own length. Its own correction is not used:
    over one column there is nothing to correct; `DriftDetector` corrects over all columns, the same for every implementation.
    """

    def _compare(self, reference: Matrix, values: Matrix) -> tuple[float, float]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No `categories_per_feature`")
            test = TabularDrift(reference[:, None])
        data = test.predict(values[:, None], drift_type="feature", return_p_val=True, return_distance=True)["data"]
        return float(data["p_val"][0]), float(data["distance"][0])


class Outliers(OutlierDetector):
    """`IForest` (isolation forest) with a fixed seed, so that the same window gets the same verdict after a restart."""

    def _fit(self, rows: Matrix) -> None:
        self._forest = IForest(threshold=0.0, n_estimators=100)
        self._forest.isolationforest.set_params(random_state=0)
        self._forest.fit(rows)

    def _score(self, rows: Matrix) -> Matrix:
        return np.asarray(self._forest.score(rows), dtype=np.float64)
