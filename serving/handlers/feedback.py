"""Truths that come in: kept by prediction id, and put in order on the stream from which the archive takes them.

A truth is taken only for a prediction that was answered (`serving.telemetry.prediction_id`). A correction stands beside what was known before, with
the moment at which it became known; the latest holds. The same truth again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from feature_repo.records.prediction import Label, Truths, id_ms, is_prediction_id, known_truths
from feature_repo.records.redis_keys import label_log_key, labels_key, prediction_log_key
from infra.timestamps import microseconds, moment_at
from serving.handlers.lookup import find
from serving.protocol.body import read_json
from serving.protocol.problem import Conflict, FieldError, Invalid, TooLarge, Unavailable
from serving.protocol.refusal import refusal_of
from serving.protocol.request import moment
from serving.telemetry.prediction_id import PredictionIds

if TYPE_CHECKING:
    from infra.settings import Settings

MAX_ITEMS = 10_000
"""Truths in one feedback request."""
MAX_TRUTHS = 20
"""Truths of one prediction: what was known, and its corrections."""
_LOOKED_UP = 100
"""Predictions from before ids carried a proof, of one request, that are looked up in the log."""
_ATTEMPTS = 5
# KEYS: the hash of truths, their stream; ARGV: entries kept on the stream; per prediction: id, what was read ('' for nothing), what is to
# be there, n, and n times an entry for the stream. Returns 1 for each that is written, 0 where another request was first.
_WRITE = """
local i, done = 2, {}
while i <= #ARGV do
  local n = tonumber(ARGV[i + 3])
  if (redis.call('HGET', KEYS[1], ARGV[i]) or '') == ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    for k = i + 4, i + 3 + n do redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'l', ARGV[k]) end
    table.insert(done, 1)
  else
    table.insert(done, 0)
  end
  i = i + 4 + n
end
return done
"""
_CHUNK = 500


class _Item(msgspec.Struct, frozen=True):
    """A truth of a request; `at_us` is None where it gave no moment."""

    row: int
    number: str
    label: int
    at_us: int | None


class _Before(msgspec.Struct, frozen=True):
    """What lay in Redis of one prediction: as it lay there, b"" for nothing, and as truths, where it is some."""

    raw: bytes
    truths: Truths | None

    @classmethod
    def of(cls, raw: bytes | None) -> _Before:
        return cls(raw or b"", known_truths(raw))  # garbage is written over


class Feedback:
    """
    Args:
        client: `redis.asyncio`.
        clock: what a truth without a moment is dated by, and none may be dated ahead of; microseconds since the epoch.
        settings: how many truths the stream keeps until they are archived, and the clock's tolerance.
        ids: tell which predictions were answered.
    """

    def __init__(self, client: Any, project: str, clock: Callable[[], int], settings: Settings, ids: PredictionIds) -> None:
        self._redis, self._project, self._clock, self._ids = client, project, clock, ids
        self._retention, self._tolerance_us = settings.log_retention, round(settings.clock_tolerance_s * 1e6)

    async def keep(self, model: str, body: bytes) -> bytes:
        """Keep truths by prediction id, all of a request or none; the same truth twice is one truth.

        Args:
            body: `{"prediction_id", "label": 0|1, "at"?}`, or `{"items": [...]}` of such.

        Returns:
            JSON: how many predictions got a truth (`accepted`), how many of these had one before (`corrected`), and of how many
            all was known.

        Raises:
            Invalid: it is no such body, or names a prediction that this model has not answered.
            Conflict: two labels are given for one moment of a prediction, or more truths than are kept of one.
        """
        now_us = self._clock()
        by_number: dict[str, list[_Item]] = {}
        for item in self._items(body, now_us):
            by_number.setdefault(item.number, []).append(item)
        try:
            await self._check_answered(model, by_number)
            before: dict[str, _Before] = await self._read(model, list(by_number))
            accepted, corrected, left = 0, 0, list(by_number)
            for _ in range(_ATTEMPTS):
                found = {number: _merged(before[number].truths, by_number[number], now_us) for number in left}
                if clashes := [fault for made in found.values() if isinstance(made, list) for fault in made]:
                    raise Conflict(f"row {clashes[0].row}, field 'label': {clashes[0].message}.", clashes)
                new = [(number, made) for number, made in found.items() if isinstance(made, Truths) and made != before[number].truths]
                done = await self._write(model, new, before)
                accepted += sum(done)
                corrected += sum(before[number].truths is not None for (number, _), ok in zip(new, done, strict=True) if ok)
                left = [number for (number, _), ok in zip(new, done, strict=True) if not ok]
                if not left:
                    break
                before |= await self._read(model, left)  # another request was first between our look and our write
            else:
                raise Unavailable("Others keep changing the same truths; send it again.")
        except (RedisError, OSError, TimeoutError) as error:
            kinds = {
                labels_key(self._project, model): "hash",
                label_log_key(self._project): "stream",
                prediction_log_key(self._project): "stream",
            }
            why = await refusal_of(self._redis, error, kinds)
            raise Unavailable(f"The truth could not be kept: the online store {why}. Send it again.") from None
        known = len(by_number) - accepted
        return msgspec.json.encode({"model": model, "accepted": accepted, "corrected": corrected, "known": known})

    async def _check_answered(self, model: str, by_number: dict[str, list[_Item]]) -> None:
        """
        Raises:
            Invalid: some of the predictions were not answered by the model.
        """
        doubtful = [number for number in by_number if not self._ids.answered(model, number)]
        # of ids that were given before they carried a proof, the log knows
        old = [number for number in doubtful if id_ms(number) < self._ids.since_ms][:_LOOKED_UP]
        for number in old:
            one = await find(self._redis, self._project, number, (0.0,))
            if one is not None and one.model == model and one.role != "shadow":
                doubtful.remove(number)
        if doubtful:
            faults = [
                FieldError(f"no prediction of {model} was answered with this id", by_number[n][0].row, "prediction_id") for n in doubtful
            ]
            raise Invalid(f"row {faults[0].row}, field 'prediction_id': {faults[0].message}.", faults)

    async def _read(self, model: str, numbers: list[str]) -> dict[str, _Before]:
        found = await self._redis.hmget(labels_key(self._project, model), numbers)
        return {number: _Before.of(raw) for number, raw in zip(numbers, found, strict=True)}

    async def _write(self, model: str, new: list[tuple[str, Truths]], before: dict[str, _Before]) -> list[bool]:
        """Into the hash and onto the stream, both or neither; False where what is there is not what was read."""
        encode = msgspec.json.encode
        keys, done = (labels_key(self._project, model), label_log_key(self._project)), []
        for i in range(0, len(new), _CHUNK):
            flat: list[Any] = []
            for number, truths in new[i : i + _CHUNK]:
                old = before[number]
                had = old.truths.all if old.truths is not None else ()
                fresh = [encode(Label(model, number, *one)) for one in truths.all if one not in had]
                flat += [number, old.raw, encode(truths), len(fresh), *fresh]
            done += await self._redis.eval(_WRITE, 2, *keys, self._retention, *flat)
        return [bool(one) for one in done]

    def _items(self, body: bytes, now_us: int) -> list[_Item]:
        given = read_json(body)
        rows = given["items"] if isinstance(given, dict) and set(given) == {"items"} and isinstance(given["items"], list) else [given]
        if not rows or len(rows) > MAX_ITEMS:
            raise (TooLarge if rows else Invalid)(f"`items` has {len(rows)} truths; send 1 to {MAX_ITEMS}.")
        faults: list[FieldError] = []
        items: list[_Item] = []
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
            at_us = None
            if at is not None:
                try:
                    at_us = self._moment(at, now_us)
                except (ValueError, OverflowError) as error:
                    faults.append(FieldError(str(error), row, "at"))
            faults += [FieldError("is not known here", row, name[:100]) for name in item if name not in ("prediction_id", "label", "at")]
            if len(faults) == before:
                items.append(_Item(row, str(number), int(label or 0), at_us))
        if faults:
            raise Invalid(f"row {faults[0].row}, field {faults[0].field!r}: {faults[0].message}.", faults)
        return items

    def _moment(self, at: Any, now_us: int) -> int:
        if isinstance(at, bool) or not isinstance(at, str | int | float):
            raise ValueError("must be ISO 8601 or seconds since the epoch")
        at_us = microseconds(moment(at))
        if at_us > now_us + self._tolerance_us:
            raise ValueError(f"lies ahead of the clock, which says {moment_at(now_us).isoformat(timespec='seconds')}")
        return at_us


def _merged(truths: Truths | None, items: list[_Item], now_us: int) -> Truths | list[FieldError]:
    """What is known of a prediction with what a request says of it; where that contradicts itself, what is wrong.

    A truth without a moment that says what was said before is the same truth again. One with a moment is kept whatever is known, so that
    the order in which they come never shows.
    """
    for item in items:
        at_us = now_us if item.at_us is None else item.at_us
        if truths is None:
            truths = Truths(item.label, at_us)
            continue
        if (item.label, at_us) in truths.all or (item.at_us is None and any(item.label == label for label, _ in truths.all)):
            continue
        if any(at_us == at for _, at in truths.all):
            return [FieldError(f"is {item.label}, but {1 - item.label} is known of the same moment of this prediction", item.row, "label")]
        if len(truths.all) >= MAX_TRUTHS:
            return [FieldError(f"would be truth number {MAX_TRUTHS + 1} of this prediction; so many are not kept", item.row, "label")]
        truths = truths.corrected(item.label, at_us)
    assert truths is not None
    return truths
