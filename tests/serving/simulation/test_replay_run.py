"""A replay begins where the online store stands, or is refused: no event twice, none left out."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import pytest

from feature_repo.records.redis_keys import view_key
from infra.timestamps import microseconds
from serving.simulation.replay import ReplayError
from serving.simulation.replay_run import check_place
from streaming import clock
from streaming.online.store import connect

DAYS = [microseconds(datetime(2024, 5, day, tzinfo=UTC)) for day in range(1, 6)]


@pytest.mark.parametrize(
    ("seams", "replayed_to", "begin", "said"),
    [
        ((1, 1), None, 1, None),
        ((1, 1), 2, 2, None),
        ((1, 2), 2, 2, None),
        ((1, 1), 1, 1, None),
        ((1, None), 1, 1, "'b' is not backfilled: run `headrace backfill --to 2024-05-02`"),
        ((1, 3), 1, 2, "'b' is backfilled to 2024-05-04 00:00"),
        ((1, 1), 2, 1, "would be applied twice. Go on with `--from 2024-05-03`, or set the store back"),
        ((1, 1), 2, 3, "would miss 7 events. Begin with `--from 2024-05-03`, or set the store back"),
        ((1, 2), None, 2, "stands at 2024-05-02 00:00"),
    ],
)
def test_where_a_replay_may_begin(
    redis_url: str, seams: tuple[int | None, ...], replayed_to: int | None, begin: int, said: str | None
) -> None:
    project, client = f"replay_{secrets.token_hex(4)}", connect(redis_url)
    for name, day in zip("ab", seams, strict=True):
        if day is not None:
            client.hset(view_key(project, name), "seam_us", DAYS[day])
    if replayed_to is not None:
        clock.set_rehearsal(client, project, DAYS[replayed_to])
    if said is None:
        check_place(client, project, ["a", "b"], DAYS[begin], lambda *_: 7)
        return
    with pytest.raises(ReplayError) as refused:
        check_place(client, project, ["a", "b"], DAYS[begin], lambda *_: 7)
    assert said in str(refused.value)


def test_a_time_without_events_is_no_gap(redis_url: str) -> None:
    project, client = f"replay_{secrets.token_hex(4)}", connect(redis_url)
    client.hset(view_key(project, "a"), "seam_us", DAYS[0])
    check_place(client, project, ["a"], DAYS[3], lambda *_: 0)
