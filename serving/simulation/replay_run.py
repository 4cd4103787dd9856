"""A replay with everything it needs looked up: contract, events, requests, the server's address; and its progress shown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from feature_repo.records import release
from feature_repo.records.redis_keys import clock_key, view_key
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from infra import redis_client
from infra.ports import port
from infra.settings import Settings
from infra.timestamps import minute_text, moment_at
from serving.simulation.replay import Replayed, ReplayError, Where, events_of, play, requests_of
from streaming.aggregation.windows import MINUTE
from streaming.online.store import connect
from streaming.schema.feature_view import views

if TYPE_CHECKING:
    from redis import Redis
    from rich.console import Console


def rehearse(
    settings: Settings,
    case: UseCase,
    spec: ModelSpec,
    span: tuple[int, int],
    step_minutes: float,
    console: Console,
    between: Callable[[int, Replayed, Callable[[str], None]], None] = lambda *_: None,
) -> Replayed:
    """Replay a span `[first, last)` (microseconds) against the running services of this checkout.

    Args:
        between: called after each step with the moment reached, the tally so far, and what shows a line of progress; time stands still meanwhile.

    Raises:
        ReplayError: no live model, no data, or the online store does not stand at the period's beginning.
    """
    first_us, last_us = span
    number = release.champion(settings.model_root, spec.name)
    if number is None:
        raise ReplayError(f"no version of {spec.name} is live: run `headrace train` first")
    made = release.verified(settings.model_root, spec.name, number)
    compiled = list(views(case.store).values())
    with contextlib.closing(connect(settings.redis())) as client:
        check_place(
            client,
            case.project,
            [v.name for v in compiled if v.stream],
            first_us,
            lambda start, end: len(events_of(compiled, settings.offline_root, start, end).items),
        )
    with console.status("reading history"):
        events = events_of(compiled, settings.offline_root, first_us, last_us)
        requests = requests_of(spec, made, settings.offline_root, first_us, last_us)
    if not requests.moments:
        raise ReplayError(f"no examples between {minute_text(first_us)} and {minute_text(last_us)}")
    with console.status("") as status:

        def progress(at_us: int, tally: Replayed) -> None:
            recent = sorted(tally.latency_ms[-1000:])
            p50 = recent[len(recent) // 2] if recent else 0.0
            status.update(
                f"replaying {moment_at(at_us):%a %d %b %H:%M}: {tally.events:,} events, "
                f"{tally.predictions:,} predictions (p50 {p50:.1f} ms), {tally.labels:,} labels, {tally.failed} failed"
            )
            between(at_us, tally, status.update)

        return asyncio.run(
            play(
                Where(spec.name, f"http://{settings.host}:{port(settings.state, 'http')}", settings.redis(), case.project),
                events,
                requests,
                span,
                round(step_minutes * MINUTE),
                progress=progress,
            )
        )


def check_place(client: Redis, project: str, names: list[str], first_us: int, known: Callable[[int, int], int]) -> None:
    """Whether the online store stands where a replay begins: later, events would be applied twice; earlier, some would be missing.

    Args:
        names: views with a live stream.
        known: how many events became known between two moments.

    Raises:
        ReplayError: it does not; the message says where to begin, and how to set the store back.
    """
    back = f"set the store back: `headrace down`, `headrace backfill --rewind --to {_iso(first_us)}`, `headrace up`"
    clock = redis_client.whole(client.get(clock_key(project)))  # type: ignore[arg-type]
    places = []
    for name in names:
        seam = redis_client.whole(client.hget(view_key(project, name), "seam_us"))  # type: ignore[arg-type]
        if seam is None:
            raise ReplayError(f"feature view {name!r} is not backfilled: run `headrace backfill --to {_iso(first_us)}` first")
        if seam > first_us:
            raise ReplayError(
                f"feature view {name!r} is backfilled to {minute_text(seam)}, but the replay begins at {minute_text(first_us)}: {back}"
            )
        places.append(max(seam, clock or seam))
    if clock is not None and clock > first_us:
        raise ReplayError(
            f"a replay has brought the online store to {minute_text(clock)}; from {minute_text(first_us)} events would be applied twice. "
            f"Go on with `--from {_iso(clock)}`, or {back}"
        )
    place = min(places, default=first_us)
    if place < first_us and (missing := known(place, first_us)):
        raise ReplayError(
            f"the online store stands at {minute_text(place)}; of the time until {minute_text(first_us)} it would miss {missing:,} events. "
            f"Begin with `--from {_iso(place)}`, or {back}"
        )


def _iso(us: int) -> str:
    at = moment_at(us)
    return f"{at:%Y-%m-%d}" if us % (24 * 60 * MINUTE) == 0 else f"{at:%Y-%m-%dT%H:%M}"
