"""Views whose values the online store does not hold: never backfilled, or lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import view_key
from streaming.offline.parquet import fault, table_path
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis


def unfilled_views(client: redis.Redis, views: Sequence[View], root: Path) -> list[str]:
    """Views that have an offline table, but of which the store knows no backfill: there never was one, or the store has lost what it held.

    Args:
        root: where the offline tables lie.
    """
    asked = client.pipeline(transaction=False)
    for view in views:
        asked.hexists(view_key(view.project, view.name), "seam_us")
    answers = [_there(answer) for answer in asked.execute(raise_on_error=False)]
    return [view.name for view, there in zip(views, answers, strict=True) if not there and not fault(table_path(view, root))]


def _there(answer: Any) -> bool:
    """Whether Redis says that there is a backfill; something else in its place is none.

    Raises:
        redis.ResponseError: any other refusal, which says nothing of what is there.
    """
    if isinstance(answer, Exception):
        if str(answer).startswith("WRONGTYPE"):
            return False
        raise answer
    return bool(answer)
