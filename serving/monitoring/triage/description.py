"""What is odd about one input, in words that a person can check. It decides nothing: the shape of a column cannot tell who is to blame."""

from __future__ import annotations

import numpy as np

from feature_repo.records.verdict import FeatureVerdict
from serving.monitoring.hours import Matrix
from serving.monitoring.kinds.base import Shares
from serving.monitoring.triage.seen import Seen

MUCH = 0.05
"""Shares that differ by less are not told."""


def describe(seen: Seen, j: int, verdict: FeatureVerdict, reference: Matrix) -> tuple[str, list[str]]:
    """A clause that reads on from the input's name, and a few predictions that show it.

    Args:
        j: the input's place.
        reference: float64 [n, F + 1]; NaN is null.
    """
    values, theirs = seen.matrix[:, j], reference[:, j]
    lost = np.isnan(values)
    stale, missing = (seen.statuses[:, j] == letter for letter in (b"s", b"m"))
    for hit, word in ((stale, "stale"), (missing, "missing"), (lost, "null")):
        if hit.mean() - verdict.reference_null_rate >= MUCH:
            return f"is {word} in {hit.mean():.0%} of the predictions", seen.some(hit, j, verdict.name)
    shares, usual = Shares.of(values[~lost]), Shares.of(theirs[~np.isnan(theirs)])
    gains = shares.gains(usual)
    if "repeated" in verdict.kinds and gains.max(initial=0.0) >= MUCH:
        most = int(np.argmax(gains))
        was = shares.share[most] - gains[most]
        text = f"is {shares.value[most]:g} in {shares.share[most]:.0%} of the predictions ({was:.0%} of the reference)"
        return text, seen.some(values == shares.value[most], j, verdict.name)
    if "range" in verdict.kinds and len(usual.value) and verdict.unseen > 0:
        beyond = (values < usual.value[0]) | (values > usual.value[-1])
        if beyond.any():
            text = f"lies outside {usual.value[0]:g} to {usual.value[-1]:g} in {beyond.mean():.0%} of the predictions"
            return text, seen.some(beyond, j, verdict.name)
        new = usual.at(np.nan_to_num(values, nan=usual.value[0])) == 0
        return f"has codes that the reference does not know in {new.mean():.0%} of the predictions", seen.some(new, j, verdict.name)
    if "values" not in verdict.kinds and "clock" in verdict.kinds:
        return "no longer follows the hour of the week", seen.some(~lost, j, verdict.name)
    if "values" not in verdict.kinds and {"rows", "columns", "views"} & set(verdict.kinds):
        return "no longer goes with what it went with", seen.some(~lost, j, verdict.name)
    if lost.all() or np.isnan(theirs).all():
        return "is null", []
    now, then = np.nanmedian(values), np.nanmedian(theirs)
    away = ~lost & (np.abs(values - then) >= np.abs(now - then))
    return f"has a median of {now:g}, where {then:g} was usual", seen.some(away, j, verdict.name)
