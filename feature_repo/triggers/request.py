"""A person asks (`headrace retrain --ask`)."""

from __future__ import annotations

from feature_repo.triggers.base import DAY_US, Facts, Settings, Trigger


class Request(Trigger[Settings]):
    """Always wanted, and held by nothing."""

    kind = "request"
    holds = False
    example = ({}, Facts(now_us=400 * DAY_US, known_upto_us=None, request="the data team"))

    def wanted(self, asked: Settings) -> bool:
        return False  # nothing has to look for it: whoever asks is there

    def fires(self, asked: Settings, facts: Facts) -> str | None:
        return None if facts.request is None else facts.request or "asked for"
