from __future__ import annotations

import threading
from pathlib import Path

import pytest

from feature_repo.records import release
from feature_repo.records.contract import ContractError
from feature_repo.records.release import ReleaseError
from tests.serving.shop import write_version

MODEL = "sells_out"
KEYS = [f"key {i}".encode() for i in range(20_000)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        write_version(tmp_path, version)
    release.promote(tmp_path, MODEL, 1)
    return tmp_path


def test_promote_then_roll_back_and_every_step_is_kept(root: Path) -> None:
    assert release.read(root, "nothing") is None
    release.promote(root, MODEL, 2, "better on the test days")
    assert release.champion(root, MODEL) == 2
    now = release.roll_back(root, MODEL, "worse in the shop")
    assert (now.champion, now.previous) == (1, None)
    assert [(s.what, s.why) for s in now.history] == [
        ("version 1 promoted", ""),
        ("version 2 promoted", "better on the test days"),
        ("rolled back", "worse in the shop"),
    ]
    with pytest.raises(ReleaseError, match="no version of sells_out to go back to before 1"):
        release.roll_back(root, MODEL)


def test_promoting_what_is_live_changes_nothing(root: Path) -> None:
    before = release.read(root, MODEL)
    assert release.promote(root, MODEL, 1) == before == release.read(root, MODEL)


def test_a_version_that_does_not_verify_is_not_released(root: Path) -> None:
    before = release.read(root, MODEL)
    (root / MODEL / "2" / "model.onnx").write_bytes(b"tampered")
    for step in (release.promote, release.canary, release.shadow):
        with pytest.raises(ContractError):
            step(root, MODEL, 2)
    with pytest.raises(ContractError):
        release.promote(root, MODEL, 9)
    assert release.read(root, MODEL) == before


def test_a_canary_keeps_its_keys_as_its_share_grows(root: Path) -> None:
    small = release.canary(root, MODEL, 2, 0.1)
    large = release.canary(root, MODEL, 2, 0.4)
    mine = {k for k in KEYS if small.answers(k) == 2}
    more = {k for k in KEYS if large.answers(k) == 2}
    assert mine < more
    assert abs(len(mine) / len(KEYS) - 0.1) < 0.01
    assert abs(len(more) / len(KEYS) - 0.4) < 0.015
    other = release.canary(root, MODEL, 3, 0.1)
    assert abs(sum(other.answers(k) == 3 for k in mine) / len(mine) - 0.1) < 0.05, "another candidate asks other keys"
    assert release.canary(root, MODEL, None).canary is None


def test_a_candidate_that_is_promoted_is_no_candidate_any_more(root: Path) -> None:
    release.canary(root, MODEL, 2, 0.5)
    release.shadow(root, MODEL, 3)
    now = release.promote(root, MODEL, 2)
    assert (now.champion, now.previous, now.canary, now.share, now.shadow) == (2, 1, None, 0.0, 3)
    assert now.versions == {1: "previous", 2: "champion", 3: "shadow"}
    assert release.promote(root, MODEL, 3).shadow is None


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_steps_that_make_no_sense_say_why(root: Path, share: float) -> None:
    with pytest.raises(ReleaseError, match="more than 0 and at most 1"):
        release.canary(root, MODEL, 2, share)
    with pytest.raises(ReleaseError, match="is the champion already"):
        release.shadow(root, MODEL, 1)
    with pytest.raises(ReleaseError, match="there is no model 'sels_out'; there is: sells_out"):
        release.roll_back(root, "sels_out")
    (root / MODEL / release.RELEASE).write_text("{")
    with pytest.raises(ReleaseError, match="promote a version again"):
        release.read(root, MODEL)


@pytest.mark.parametrize("share", [5, -0.1, 1.0000001])
def test_a_share_that_is_none_is_refused_in_the_file_too(root: Path, share: float) -> None:
    path = root / MODEL / release.RELEASE
    path.write_text(f'{{"champion": 1, "canary": 2, "share": {share}}}')
    with pytest.raises(ReleaseError, match=r"share is .*promote a version again"):
        release.read(root, MODEL)


def test_steps_at_the_same_time_are_all_kept(root: Path) -> None:
    threads = [threading.Thread(target=release.shadow, args=(root, MODEL, 2 + i % 2, str(i))) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = release.read(root, MODEL)
    assert now is not None
    assert {s.why for s in now.history} == {"", *(str(i) for i in range(20))}
