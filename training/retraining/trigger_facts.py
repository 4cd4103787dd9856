"""What the triggers look at (`feature_repo.triggers.base.Facts`), gathered from the archive, the offline store and the watch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract
from feature_repo.records.verdict import Verdict, history_path
from feature_repo.spec.model import ModelSpec
from feature_repo.triggers.base import Facts
from infra import files
from streaming.offline.parquet import TableError, fault, table
from training.data.column_moments import micros
from training.monitoring import live_quality
from training.monitoring.live_quality import Labelled
from training.retraining.alarm import Row, after, settled

log = logging.getLogger("headrace.autopilot")
if TYPE_CHECKING:
    from infra.settings import Settings


def moment(settings: Settings, spec: ModelSpec, rows: Labelled, wall_us: int) -> int | None:
    """The data's own time: the newest prediction's; where nothing was asked yet, the newest truth's, as far as there is one.

    Where requests cannot bring a time of their own, predictions are of the wall's, which then goes on when nobody asks. Where they can, and
    there is neither a prediction nor a truth, nobody knows what time the data has: None. The wall's would be years off.
    """
    if not len(rows.at_us):
        newest = truths_known(settings, spec, wall_us)
        if not len(newest):
            return None if settings.allows_request_now else wall_us
        return int(newest.max())
    now_us = int(rows.at_us.max())
    return now_us if settings.allows_request_now else max(now_us, wall_us)


def facts(spec: ModelSpec, live: Contract, rows: Labelled, now_us: int, known: NDArray[np.int64]) -> Facts:
    """What the data say of the live version.

    Args:
        rows: the archived predictions.
        known: from `truths_known`.
    """
    asked = spec.learning.triggers
    stated: Any = live.training_set.get("known_upto_us")
    known_upto_us = None if stated is None else int(stated)
    truths = [int(n.max()) for n in (known, rows.known_us[(rows.known_us >= 0) & (rows.known_us <= now_us)]) if len(n)]
    mine = rows.where((rows.version == live.version) & (rows.role != "shadow") & ~np.isnan(rows.label))
    estimate = baseline = None
    if asked.quality is not None and len(mine.label) >= asked.quality.window:
        recent = slice(len(mine.label) - asked.quality.window, None)
        estimate = live_quality.by_days(mine.label[recent], mine.score[recent], mine.at_us[recent], asked.quality.metric)
        held_out = live.metrics.get("test") or live.metrics.get("valid", {})
        baseline = held_out.get(asked.quality.metric)
    return Facts(
        now_us=now_us,
        known_upto_us=known_upto_us,
        labelled_us=max(truths, default=None),
        new_labels=0 if known_upto_us is None else int((known > known_upto_us).sum()),
        live=estimate,
        baseline=baseline,
    )


def truths_known(settings: Settings, spec: ModelSpec, now_us: int) -> NDArray[np.int64]:
    """When the truths of the offline store's examples became known, microseconds `[n]`: those that are by now.

    Raises:
        TableError: there are examples, and they cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    folder, spine = settings.offline_root / spec.spine.table, spec.spine
    if fault(str(folder)):
        return np.zeros(0, np.int64)
    examples = table(folder, [spine.label_timestamp, spine.label])
    examples = examples.filter(pc.and_(pc.is_valid(examples[spine.label]), pc.is_valid(examples[spine.label_timestamp])))
    try:
        known = micros(examples, spine.label_timestamp)
    except pa.ArrowException as error:
        raise TableError(f"the table at {folder} has no moments in {spine.label_timestamp!r}: {error}") from None
    return known[known <= now_us]


def verdicts(settings: Settings, model: str, row: Row, read: int, champion: int) -> tuple[Row, int]:
    """What the watch's verdicts on the live version have come to, with those written since.

    Args:
        read: how far its file has been read, bytes. A file that is shorter by now, or has no line's end there, is another one, and is read
            from its beginning: what the row has seen already adds nothing.

    Returns:
        The row, and how far the file has been read now: whole lines only.
    """
    path = history_path(settings, model)
    if row.version != champion:  # what was said of it before has been acted upon, or it was not live
        row = settled(row, champion)
    try:
        with path.open("rb") as file:
            file.seek(max(read - 1, 0))
            if read and file.read(1) != b"\n":
                read = 0
                file.seek(0)
            content = file.read()
    except FileNotFoundError:
        return row, 0
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error.strerror)
        return row, read
    whole = content.rfind(b"\n") + 1
    for line in content[:whole].splitlines():
        try:
            found = files.parse(line, Verdict)
        except ValueError as error:
            log.warning("%s: a line is no verdict of the watch and is left out: %s", path, error)
            continue
        if found.version == champion:
            row = after(row, found)
    return row, read + whole
