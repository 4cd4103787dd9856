"""The entities that an index holds, as one set."""

from __future__ import annotations

from typing import Any

from streaming.online import entity_index


def indexed(client: Any, index: str) -> set[bytes]:
    return {key for some in entity_index.members(client, index) for key in some}
