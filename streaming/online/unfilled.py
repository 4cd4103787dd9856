"""Views whose values the online store does not hold: never backfilled, or lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.records.redis_keys import view_key
from streaming.offline.parquet import fault, table_path
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis


def unfilled_views(client: redis.Redis, views: Sequence[View], root: Path) -> list[str]:
    """Views that have an offline table, and no backfill that the store knows of: it was never done, or the store has lost what it held.

    Args:
        root: where the offline tables lie.
    """
    asked = client.pipeline(transaction=False)
    for view in views:
        asked.hexists(view_key(view.project, view.name), "seam_us")
    answers = asked.execute(raise_on_error=False)
    return [view.name for view, there in zip(views, answers, strict=True) if not there and not fault(table_path(view, root))]
