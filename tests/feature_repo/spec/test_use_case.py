"""A folder that says something wrong is told so: by file, by field."""

from pathlib import Path

import pytest
import yaml

from feature_repo.spec.use_case import UseCase
from feature_repo.spec.yaml_file import UseCaseError
from tests.bikes.generate import REPO


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    for name in ("feature_store.yaml", "ingest.yaml", "models/turned_away.yaml"):
        (tmp_path / name).write_text((REPO / name).read_text())
    return tmp_path


def change(path: Path, *keys: str, to: object) -> None:
    content = yaml.safe_load(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(yaml.safe_dump(content))


def test_a_use_case_is_read(folder: Path) -> None:
    use_case = UseCase(folder)
    assert use_case.project == "bikes"
    assert list(use_case.ingest.tables) == ["rides", "docks", "requests"]
    assert use_case.model("turned_away").spine.timestamp == "asked"


def test_a_folder_without_feature_store_yaml_is_no_use_case(tmp_path: Path) -> None:
    with pytest.raises(UseCaseError, match=r"no feature_store\.yaml"):
        UseCase(tmp_path)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "ingest.yaml").unlink()
    with pytest.raises(UseCaseError, match=r"ingest\.yaml does not exist"):
        _ = UseCase(folder).ingest


def test_broken_yaml_is_named(folder: Path) -> None:
    (folder / "ingest.yaml").write_text("raw: [")
    with pytest.raises(UseCaseError, match=r"ingest\.yaml is not valid YAML"):
        _ = UseCase(folder).ingest


@pytest.mark.parametrize(
    ("keys", "to", "says"),
    [
        (("raw", "raw_docks", "format"), "xml", r"ingest\.yaml: raw\.raw_docks\.format"),
        (("tables", "rides", "sqk"), "x", r"ingest\.yaml: tables\.rides\.sqk"),
        (("tables",), None, r"ingest\.yaml: tables"),
    ],
)
def test_an_error_in_ingest_yaml_names_the_field(folder: Path, keys: tuple[str, ...], to: object, says: str) -> None:
    change(folder / "ingest.yaml", *keys, to=to)
    with pytest.raises(UseCaseError, match=says):
        _ = UseCase(folder).ingest


@pytest.mark.parametrize(
    ("keys", "to", "says"),
    [
        (("name",), "Turned Away", r"turned_away\.yaml: name"),
        (("spine", "label"), None, r"spine\.label"),
        (("split", "valid"), {"start": "2021-03-13", "end": "2021-03-10"}, r"split\.valid.*must be before"),
        (("parameters", "seed"), 1, r"parameters.*seed"),
        (("gates",), [{"metric": "auc"}], r"gates\.0.*needs min or max"),
        (("nulls", "wish__riders"), {"action": "default"}, r"nulls\.wish__riders.*value"),
        (("rounds",), 0, r"rounds"),
    ],
)
def test_an_error_in_a_model_spec_names_the_field(folder: Path, keys: tuple[str, ...], to: object, says: str) -> None:
    change(folder / "models" / "turned_away.yaml", *keys, to=to)
    with pytest.raises(UseCaseError, match=says):
        _ = UseCase(folder).models


def test_an_unknown_model_is_answered_with_those_there_are(folder: Path) -> None:
    with pytest.raises(UseCaseError, match=r"no model 'arival'.*turned_away"):
        UseCase(folder).model("arival")
