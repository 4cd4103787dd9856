"""Ids that sort by time, that nobody can foretell, and that prove that they were given."""

from __future__ import annotations

import os
import random
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.settings import Settings
from serving.telemetry import prediction_id
from serving.telemetry.prediction_id import PredictionIds

NOW_US = 1_700_000_000_000_000
IDS = PredictionIds(b"k" * 32)


def test_ids_are_uuid7_and_sort_by_time() -> None:
    ids = [IDS.make("model", NOW_US + 1000 * i)[0] for i in range(100)]
    assert ids == sorted(ids)
    assert all(map(prediction_id.is_prediction_id, ids))
    assert int(ids[5].replace("-", "")[:12], 16) == NOW_US // 1000 + 5
    assert not prediction_id.is_prediction_id("0192f0c1-7a3e-4c5b-9d2e-5f1a2b3c4d5e")
    assert not prediction_id.is_prediction_id(ids[0] + "\n")


def test_ids_of_one_moment_differ_and_do_not_follow_pythons_generator() -> None:
    random.seed(7)
    first = IDS.make("model", NOW_US, 2_000)
    random.seed(7)
    again = IDS.make("model", NOW_US, 2_000)
    assert len({*first, *again}) == 4_000
    assert random.getrandbits(32) == random.Random(7).getrandbits(32), "it is not even asked"


def test_an_id_proves_that_this_model_gave_it() -> None:
    for number in IDS.make("model", NOW_US, 200):
        assert IDS.answered("model", number)
        assert not IDS.answered("other", number)
        assert not PredictionIds(b"x" * 32).answered("model", number)
        later = f"{int(number[:8], 16) + 1:08x}{number[8:]}"
        assert not IDS.answered("model", later)
    guessed = [PredictionIds(os.urandom(32)).make("model", NOW_US)[0] for _ in range(2_000)]
    assert not any(IDS.answered("model", number) for number in guessed)
    assert not IDS.answered("model", "no id")


def test_replicas_that_begin_at_once_share_one_key_that_others_cannot_read(tmp_path: Path) -> None:
    def begin(_: int) -> PredictionIds:
        return prediction_id._of.__wrapped__(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        replicas = list(pool.map(begin, range(8)))
    (number,) = replicas[0].make("model", NOW_US)
    assert all(one.answered("model", number) for one in replicas)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_broken_key_is_put_aside_and_costs_no_replica_its_start(tmp_path: Path) -> None:
    made = Settings(state=tmp_path)
    path = tmp_path / "prediction-ids.key"
    path.write_text("garbage")
    ids = PredictionIds.of(made)
    assert ids.answered("model", ids.make("model", NOW_US)[0])
    assert ids.since_ms > 1_700_000_000_000
    assert path.with_suffix(".broken").read_text() == "garbage"


def test_the_random_parts_are_the_operating_systems_each_given_once() -> None:
    """Drawn many at a time; threads do not get the same, nor does a process that was forked."""
    with ThreadPoolExecutor(8) as pool:
        ids = [number for some in pool.map(lambda _: IDS.make("model", NOW_US, 1_000), range(16)) for number in some]
    assert len(set(ids)) == 16_000
    bits = [int(number.replace("-", ""), 16) for number in ids]
    for place in (*range(62), *range(64, 76)):
        assert abs(sum(n >> place & 1 for n in bits) - 8_000) < 500, place
    assert all(n >> 62 & 3 == 2 for n in bits), "the variant of RFC 9562"
    while len(prediction_id._pool) <= 50:  # threads leave any number
        IDS.make("model", NOW_US)
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, " ".join(IDS.make("model", NOW_US, 50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 10_000).decode().split()
    assert not set(theirs) & set(IDS.make("model", NOW_US, 600))


def test_an_id_of_a_version_before_is_known() -> None:
    assert IDS.answered("model", "018bcfe5-6800-7ef2-9d4a-fad3ceb8c48b")
