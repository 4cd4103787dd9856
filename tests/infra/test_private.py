"""What lies under a name that others can know is ours, or is refused."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import ports, private
from infra.settings import Settings
from serving.deployment import app, leftovers

STRANGER = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


def _link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def _file(path: Path) -> None:
    path.write_text("")


def _strangers(path: Path) -> None:
    path.mkdir(mode=0o777)
    os.chown(path, STRANGER, STRANGER)


PLANTED = [_link, _dangling, _file, pytest.param(_strangers, marks=as_root)]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_folder_that_somebody_else_put_there_is_refused_wherever_we_use_one(plant: object, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    plant(planted)  # type: ignore[operator]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ports, "claims_folder", lambda: planted)
        with pytest.raises(private.NotOursError, match=str(planted)):
            ports.port(tmp_path / "state", "anything")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leftovers, "scratch", lambda _: planted)
        with pytest.raises(private.NotOursError, match=str(planted)):
            app.run(Settings(state=tmp_path / "state"))
    with pytest.raises(private.NotOursError, match=str(planted)):
        private.folder(planted)
    assert not (tmp_path / "elsewhere").exists() or not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_of_ours_is_taken_and_closed_to_others(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert private.folder(made) == private.folder(made) == made
    made.chmod(0o755)  # as versions before left theirs
    private.folder(made)
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_secret_is_one_for_all_who_ask_at_once_and_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: private.secret(path), range(64)))
    assert len(found) == 1
    assert len(found.pop()) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_that_somebody_else_could_know_is_refused_or_closed(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    (tmp_path / "known").write_text("known")
    path.symlink_to(tmp_path / "known")
    with pytest.raises(private.NotOursError, match="secret"):
        private.secret(path)
    path.unlink()
    path.write_text("")
    with pytest.raises(private.NotOursError, match="empty"):
        private.secret(path)
    path.write_text("mine")
    path.chmod(0o644)
    assert private.secret(path) == "mine"
    assert path.stat().st_mode & 0o777 == 0o600
