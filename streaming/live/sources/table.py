"""Every kind of event source; one that is not here is not there."""

from __future__ import annotations

from collections.abc import Sequence

from infra.settings import Settings
from streaming.live.sources.base import Source
from streaming.live.sources.files import Files

SOURCES: tuple[type[Source], ...] = (Files,)


def asked(settings: Settings, sources: Sequence[str]) -> list[Source]:
    """Those that the settings ask for. `sources`: names of the push sources that feed a view."""
    return [found for kind in SOURCES if (found := kind.of(settings, sources)) is not None]
