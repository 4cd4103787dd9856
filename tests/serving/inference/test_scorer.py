from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from serving.inference.scorer import Scorer, ScorerError
from tests.serving.shop import WEIGHTS, write_linear


@pytest.mark.parametrize("flat", [True, False])
def test_rows_come_back_as_one_score_each(tmp_path: Path, flat: bool) -> None:
    write_linear(tmp_path / "m.onnx", flat=flat)
    matrix = np.arange(10, dtype=np.float64).reshape(2, 5)
    scores = Scorer(tmp_path / "m.onnx", 5).score(matrix)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, matrix @ np.array(WEIGHTS))


def test_a_matrix_that_is_not_contiguous_scores_the_same(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx")
    matrix = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 5)))
    np.testing.assert_allclose(Scorer(tmp_path / "m.onnx", 5).score(matrix), matrix @ np.array(WEIGHTS))


def test_single_precision_is_refused(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx", dtype=TensorProto.FLOAT)
    with pytest.raises(ScorerError, match="double"):
        Scorer(tmp_path / "m.onnx", 5)


def test_another_width_than_the_contracts_is_refused(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx")
    with pytest.raises(ScorerError, match="5 columns, its contract names 4"):
        Scorer(tmp_path / "m.onnx", 4)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no")
    with pytest.raises(ScorerError, match="cannot be loaded"):
        Scorer(tmp_path / "m.onnx", 5)
