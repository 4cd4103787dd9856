"""Truths that come in: kept by prediction id, and put in order on the stream from which the archive takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisError

from feature_repo.prediction import Label, label_log_key, labels_key
from serving.body import read_json
from serving.predict import is_prediction_id
from serving.problem import Conflict, FieldError, Invalid, TooLarge, Unavailable
from serving.schema import micros, moment

MAX_ITEMS = 10_000
"""Truths in one feedback request."""


class Feedback:
    """
    Args:
        client: `redis.asyncio`.
        clock: what a truth without a moment is dated by, microseconds since the epoch.
        retention: truths kept on the stream until they are archived (approximately).
    """

    def __init__(self, client: Any, project: str, clock: Callable[[], int], retention: int) -> None:
        self._redis, self._project, self._clock, self._retention = client, project, clock, retention

    async def keep(self, model: str, body: bytes) -> bytes:
        """Keep truths by prediction id; the same truth twice is one truth.

        Args:
            body: `{"prediction_id", "label": 0|1, "at"?}`, or `{"items": [...]}` of such.

        Returns:
            JSON: how many are new and how many were known.

        Raises:
            Conflict: a prediction has another label already; nothing of the request is kept then.
        """
        items = self._items(model, body)
        key = labels_key(self._project, model)
        wanted: dict[str, Label] = {}
        clashes = []
        for row, item in enumerate(items):
            if wanted.setdefault(item.prediction_id, item).label != item.label:
                clashes.append(FieldError("is given twice in this request, with different labels", row, "label"))
        try:
            known = await self._redis.hmget(key, list(wanted)) if not clashes else []
            clashes += _clashes(items, dict(zip(wanted, known, strict=bool(known))))
            if clashes:
                raise _conflict(clashes)
            new = [number for number, before in zip(wanted, known, strict=True) if before is None]
            written = await self._write(key, [wanted[number] for number in new]) if new else []
            beaten = [number for number, done in zip(new, written, strict=True) if not done]
            if beaten:  # another request was first between our look and our write
                now = dict(zip(beaten, await self._redis.hmget(key, beaten), strict=True))
                if clashes := _clashes(items, now):
                    raise _conflict(clashes)
        except (RedisError, OSError, TimeoutError):
            raise Unavailable("The truth could not be kept: the online store does not answer. Send it again.") from None
        return msgspec.json.encode({"model": model, "accepted": len(new) - len(beaten), "known": len(wanted) - len(new) + len(beaten)})

    async def _write(self, key: str, truths: list[Label]) -> list[int]:
        """Into the hash and onto the stream: both or neither. Of two requests at once the first is first in both.

        Returns:
            1 for each that is new, 0 where another request was first.
        """
        log, encode = label_log_key(self._project), msgspec.json.encode
        async with self._redis.pipeline(transaction=True) as pipeline:
            for truth in truths:
                pipeline.hsetnx(key, truth.prediction_id, encode({"label": truth.label, "at_us": truth.at_us}))
                pipeline.xadd(log, {"l": encode(truth)}, maxlen=self._retention, approximate=True)
            return list((await pipeline.execute())[::2])

    def _items(self, model: str, body: bytes) -> list[Label]:
        given = read_json(body)
        rows = given["items"] if isinstance(given, dict) and set(given) == {"items"} and isinstance(given["items"], list) else [given]
        if not rows or len(rows) > MAX_ITEMS:
            raise (TooLarge if rows else Invalid)(f"`items` has {len(rows)} truths; send 1 to {MAX_ITEMS}.")
        faults: list[FieldError] = []
        items: list[Label] = []
        for row, item in enumerate(rows):
            before = len(faults)
            if not isinstance(item, dict):
                faults.append(FieldError('must be an object: {"prediction_id": …, "label": 0 or 1}', row))
                continue
            number, label, at = item.get("prediction_id"), item.get("label"), item.get("at")
            if not isinstance(number, str) or not is_prediction_id(number):
                faults.append(FieldError("must be a prediction_id as a prediction carried it", row, "prediction_id"))
            if not isinstance(label, int) or label not in (0, 1):
                faults.append(FieldError("must be 0 or 1", row, "label"))
            at_us = self._clock()
            if at is not None:
                try:
                    if isinstance(at, bool) or not isinstance(at, str | int | float):
                        raise ValueError("must be ISO 8601 or seconds since the epoch")
                    at_us = micros(moment(at))
                except ValueError as error:
                    faults.append(FieldError(str(error), row, "at"))
            faults += [FieldError("is not known here", row, name[:100]) for name in item if name not in ("prediction_id", "label", "at")]
            if len(faults) == before:
                items.append(Label(model, str(number), int(label or 0), at_us))
        if faults:
            raise Invalid(f"row {faults[0].row}, field {faults[0].field!r}: {faults[0].message}.", faults)
        return items


def _clashes(items: list[Label], known: dict[str, bytes | None]) -> list[FieldError]:
    clashes = []
    for row, item in enumerate(items):
        before = known.get(item.prediction_id)
        if before is not None and (kept := msgspec.json.decode(before)["label"]) != item.label:
            clashes.append(FieldError(f"is {item.label}, but {kept} is known for this prediction already", row, "label"))
    return clashes


def _conflict(clashes: list[FieldError]) -> Conflict:
    return Conflict(f"row {clashes[0].row}, field 'label': {clashes[0].message}.", clashes)
