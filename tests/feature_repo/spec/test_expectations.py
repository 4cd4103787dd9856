"""`expectations.py` of a use case: read, or told what it lacks."""

from pathlib import Path

import pytest

from feature_repo.spec.expectations import expectations_of
from feature_repo.spec.yaml_file import UseCaseError

GOOD = "import pandera.pandas as pa\nEXPECTATIONS = {'sales': pa.DataFrameSchema({'price': pa.Column(float)})}\n"


def test_a_folder_without_the_file_declares_nothing(tmp_path: Path) -> None:
    assert expectations_of(tmp_path) == {}


def test_schemas_are_read_by_table(tmp_path: Path) -> None:
    (tmp_path / "expectations.py").write_text(GOOD)
    assert list(expectations_of(tmp_path)) == ["sales"]


@pytest.mark.parametrize(
    "text",
    [
        "EXPECTATIONS = 3",
        "EXPECTATIONS = {'sales': 3}",
        "EXPECTATIONS = {3: __import__('pandera').pandas.DataFrameSchema()}",
        "",
        "1 / 0",
        "(",
    ],
)
def test_what_is_none_is_told_with_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "expectations.py").write_text(text)
    with pytest.raises(UseCaseError, match=r"expectations\.py"):
        expectations_of(tmp_path)
