"""How much one caller may ask for: what is beyond is refused by a sentence that says the limit (413 or 422)."""

from __future__ import annotations

from dataclasses import dataclass

from infra.settings import Settings

MAX_INSTANCES = 1000


@dataclass(frozen=True)
class Limits:
    """
    Attributes:
        body: bytes of a request's body, after it was unpacked.
        rows: instances of a prediction, entities of a read, events of a push.
        text: characters of one key or text.
        body_s: seconds that a body may take to come in.
    """

    body: int = 4 * 2**20
    rows: int = MAX_INSTANCES
    text: int = 4096
    body_s: float = 5.0

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(int(settings.max_body_mb * 2**20), settings.max_rows, settings.max_text)


def natural(text: str) -> int | None:
    """A whole number as callers write it: ASCII digits, at most 18 of them; None for anything else (`²` is a digit to Python, too)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
