"""A replay with everything it needs looked up: contract, events, requests, the server's address; and its progress shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from feature_repo import release
from feature_repo.use_case import ModelSpec, UseCase
from infra.moment import moment_at
from infra.ports import port
from infra.settings import Settings
from serving.replay import Replayed, ReplayError, events_of, play, requests_of
from streaming.store import connect, view_key
from streaming.view import views
from streaming.window import MINUTE

if TYPE_CHECKING:
    from rich.console import Console


def rehearse(
    settings: Settings,
    case: UseCase,
    spec: ModelSpec,
    first_us: int,
    last_us: int,
    step_minutes: float,
    console: Console,
    between: Callable[[int, Replayed, Callable[[str], None]], None] = lambda *_: None,
) -> Replayed:
    """Replay `[first, last)` (microseconds) against the running services of this checkout.

    Args:
        between: called after each step with the moment reached, the tally so far, and what shows a line of progress; time stands still meanwhile.

    Raises:
        ReplayError: no live model, no data, or the online store is not backfilled to the period's beginning.
    """
    number = release.champion(settings.model_root, spec.name)
    if number is None:
        raise ReplayError(f"no version of {spec.name} is live: run `headrace train` first")
    made = release.verified(settings.model_root, spec.name, number)
    compiled = list(views(case.store).values())
    _check_seam(settings, case, [v.name for v in compiled if v.stream], first_us)
    with console.status("reading history"):
        events = events_of(compiled, settings.offline_root, first_us, last_us)
        requests = requests_of(spec, made, settings.offline_root, first_us, last_us)
    if not requests.moments:
        raise ReplayError(f"no examples between {_day(first_us)} and {_day(last_us)}")
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
                model=spec.name,
                base_url=f"http://{settings.host}:{port(settings, 'http')}",
                redis_url=settings.redis(),
                project=case.project,
                events=events,
                requests=requests,
                span=(first_us, last_us),
                step_us=round(step_minutes * MINUTE),
                progress=progress,
            )
        )


def _day(us: int) -> str:
    return f"{moment_at(us):%Y-%m-%d %H:%M}"


def _check_seam(settings: Settings, case: UseCase, names: list[str], first_us: int) -> None:
    client = connect(settings.redis())
    for name in names:
        seam = client.hget(view_key(case.project, name), "seam_us")
        if seam is None or int(seam) > first_us:  # type: ignore[arg-type]
            state = "not backfilled" if seam is None else f"backfilled to {_day(int(seam))}"  # type: ignore[arg-type]
            raise ReplayError(
                f"feature view {name!r} is {state}, but the replay begins at {_day(first_us)}: "
                f"stop the stream and run `headrace backfill --rewind --to {_day(first_us)[:10]}`"
            )
    client.close()
