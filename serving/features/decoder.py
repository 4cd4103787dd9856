"""What an entity's reply from Redis says: how the fields of a plan are asked for, and how each view's are decoded."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feature_repo.records.prediction import STATUSES, Mark
from serving.features.window_cache import WindowCache
from streaming.aggregation import tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.windows import NEVER, declared
from streaming.online import feast_layout, packed_row
from streaming.schema.feature_view import Projection

LETTERS = "".join(status.letter for status in STATUSES if status.letter != "r")
"""Of what is read from the store: fresh, stale, null, missing."""
FRESH, STALE, NULL, MISSING = (ord(letter) for letter in LETTERS)
_NAN = float("nan")
_SERVED = struct.Struct("<4xIqI16xq")  # of `tile.HEADER`: fingerprint, mark, ties, newest event
_NO_MARK = Mark(None, 0, None)


@dataclass
class Part:
    """What one projection contributes to an entity, `number` of its parts: reply fields from `first` on, columns from `at` on."""

    projection: Projection
    number: int
    first: int
    at: int
    finisher: Finisher | None
    fields: list[bytes]
    own_fields: list[bytes]  # what a row that is not packed is read from: the timestamp, then the features
    fingerprint: int = 0
    order: list[int] = field(default_factory=list)  # of the finisher's values, the requested ones
    whole: bool = False  # the requested ones are all, in order
    unpack: Any = None
    packed: list[tuple[int, int]] = field(default_factory=list)  # (column, place in the packed row)
    loose: list[tuple[int, int]] = field(default_factory=list)  # (column, place in the reply) of what is no number
    letters: dict[str, bytes] = field(default_factory=dict)
    former: dict[int, Finisher] = field(default_factory=dict)  # of tiles that lie in an older order
    narrow: list[tuple[int, str]] = field(default_factory=list)  # (column, dtype) of windows whose type is not simply a double
    lost: bool = False  # what is stored of its windows is not their whole past
    ahead_us: int = 0  # a row that is dated further ahead of the request is from its future

    @property
    def width(self) -> int:
        return len(self.projection.features)


@dataclass
class Entity:
    """Projections that share their key columns: one Redis key, one HMGET."""

    columns: list[str]
    encode: Any
    parts: list[Part] = field(default_factory=list)
    fields: list[bytes] = field(default_factory=list)
    head: bytes = b""  # the HMGET around the key, as RESP
    tail: bytes = b""


class Answer:
    """One entity's decoded reply."""

    __slots__ = ("ages", "extras", "letters", "marks", "values")

    def __init__(self) -> None:
        self.values: list[float] = []
        self.letters = b""
        self.ages: list[float] = []
        self.marks: list[Mark] = []
        self.extras: dict[str, Any] = {}


def make_part(projection: Projection, number: int, first: int, at: int, ahead_us: int) -> Part:
    view = projection.view
    own_fields = [feast_layout.timestamp_field(view.name), *(feast_layout.field(view.name, n) for n in projection.features)]
    letters = {letter: letter.encode() * len(projection.features) for letter in LETTERS}
    if view.layout:
        names = [a.name for a in view.layout.aggregations]
        order = [names.index(n) for n in projection.features]
        finisher, fields = Finisher(view.layout), [feast_layout.tile_field(view.name)]
        return Part(
            projection,
            number,
            first,
            at,
            finisher,
            fields,
            own_fields,
            view.fingerprint,
            order,
            order == list(range(len(names))),
            letters=letters,
            former={known_by: Finisher(layout, names) for known_by, layout in view.former.items()},
            narrow=_narrow(projection),
            ahead_us=ahead_us,
        )
    packed = packed_row.numeric(view)
    fields = [feast_layout.tile_field(view.name), feast_layout.timestamp_field(view.name)]
    part = Part(
        projection, number, first, at, None, fields, own_fields, unpack=packed_row.unpacker(view), letters=letters, ahead_us=ahead_us
    )
    for column, name in enumerate(projection.features):
        if name in packed:
            part.packed.append((column, packed.index(name)))
        else:
            part.loose.append((column, len(part.fields)))
            part.fields.append(feast_layout.field(view.name, name))
    return part


def _narrow(projection: Projection) -> list[tuple[int, str]]:
    """Windows whose finished value may not be what their type holds; a count always is."""
    assert projection.view.layout is not None
    counts = {a.name for a in projection.view.layout.aggregations if a.function in ("count", "count_distinct")}
    dtypes = {f.name: f.dtype for f in projection.view.features}
    return [
        (column, dtypes[name])
        for column, name in enumerate(projection.features)
        if dtypes[name] != "double" and not (name in counts and dtypes[name] == "int64")
    ]


def windowed(part: Part, finisher: Finisher, blob: bytes | None, now_us: int, answer: Answer, cache: WindowCache, key: bytes) -> None:
    if blob is None:
        # an entity without events has empty windows, as the join says; that nothing is known of it is in the status
        answer.values += [finisher.empty[i] for i in part.order]
        answer.letters += part.letters["m"]
        answer.ages.append(_NAN)
        answer.marks.append(_NO_MARK)
        return
    blob = tiles.unseal(blob)
    fingerprint, mark_us, ties, event_us = _head(blob)
    if fingerprint != part.fingerprint:
        if fingerprint not in part.former:
            raise tiles.OtherDefinitionError("the stored tiles belong to another definition of this view: run `headrace backfill` for it")
        finisher = part.former[fingerprint]
    if now_us < event_us - finisher.hop_us:
        # asked for a moment the store has moved on from: the tiles that far back are gone, and an empty window would be a guess
        answer.values += [_NAN] * part.width
        answer.letters += part.letters["m"]
    else:
        found = cache.finish((key, id(part)), finisher, blob, now_us)
        values = found if part.whole else [found[i] for i in part.order]
        if part.narrow:
            values = values.copy()
            for column, dtype in part.narrow:
                values[column] = float(declared(np.array([values[column]]), dtype)[0])
        answer.values += values
        answer.letters += _letters(values, "f", part)
    answer.ages.append((now_us - mark_us) / 1e6)
    answer.marks.append(Mark(mark_us, ties, event_us if event_us > now_us else None))


def latest(part: Part, reply: Sequence[bytes | None], now_us: int, answer: Answer) -> bool:
    """Decode a packed row; False where the features' own fields must be read (the answer then says missing)."""
    blob, time = reply[part.first], reply[part.first + 1]
    blob = tiles.unseal(blob) if blob is not None else None
    numbers = part.unpack(blob, time) if blob is not None else None
    if numbers is None or blob is None:
        answer.values += [_NAN] * part.width
        answer.letters += part.letters["m"]
        answer.ages.append(_NAN)
        answer.marks.append(_NO_MARK)
        return time is None
    _, mark_us, ties, event_us = _head(blob)
    age_us = now_us - event_us
    if age_us < -part.ahead_us:
        # asked for a moment the store has moved on from: the row of that time is overwritten, and this one lies in its future
        answer.values += [_NAN] * part.width
        answer.letters += part.letters["m"]
        answer.ages.append(age_us / 1e6)
        answer.marks.append(Mark(mark_us if mark_us > NEVER else event_us, ties, event_us))
        return True
    ttl_us = part.projection.view.ttl_us
    present = "s" if ttl_us and age_us > ttl_us else "f"
    if not part.loose:
        values = [numbers[i] for _, i in part.packed]
        answer.letters += _letters(values, present, part)
    else:
        values = [_NAN] * part.width
        for column, i in part.packed:
            values[column] = numbers[i]
        letters = bytearray(_letters(values, present, part))
        for column, i in part.loose:
            value = feast_layout.decode_value(reply[part.first + i])
            letters[column] = NULL if value is None else ord(present)
            if value is not None:
                answer.extras[f"{part.projection.alias}:{part.projection.features[column]}"] = value
        answer.letters += bytes(letters)
    answer.values += values
    answer.ages.append(age_us / 1e6)
    answer.marks.append(Mark(mark_us if mark_us > NEVER else event_us, ties, event_us))
    return True


def broken(part: Part, answer: Answer) -> None:
    """What is answered of a view whose stored bytes are not what was written: nothing is known of it."""
    answer.values += [_NAN] * part.width
    answer.letters += part.letters["m"]
    answer.ages.append(_NAN)
    answer.marks.append(_NO_MARK)


def unknown(part: Part, answer: Answer) -> None:
    """The same of a view that has its place in the answer already."""
    letters = bytearray(answer.letters)
    for column, name in enumerate(part.projection.features, part.at):
        letters[column], answer.values[column] = MISSING, _NAN
        answer.extras.pop(f"{part.projection.alias}:{name}", None)
    answer.letters = bytes(letters)
    answer.ages[part.number], answer.marks[part.number] = _NAN, _NO_MARK


def _head(blob: bytes) -> tuple[int, int, int, int]:
    """Fingerprint, high-water mark, its ties, newest event: of an unsealed field's header all that is served."""
    found: tuple[int, int, int, int] = _SERVED.unpack_from(blob)
    return found


def _letters(values: Sequence[float], present: str, part: Part) -> bytes:
    """A status per value: null where it is NaN."""
    if any(map(math.isnan, values)):
        return b"".join([b"n" if v != v else present.encode() for v in values])
    return part.letters[present]


def loose(part: Part, blob: bytes | None, reply: Sequence[bytes | None], now_us: int, answer: Answer) -> None:
    """Decode a row from the features' own fields, into the place that `_latest` left for it."""
    event_us = feast_layout.decode_timestamp(reply[0])
    if event_us is None:
        return
    view, alias, age_us = part.projection.view, part.projection.alias, now_us - event_us
    present = STALE if view.ttl_us and age_us > view.ttl_us else FRESH
    letters = bytearray(answer.letters)
    here = part.projection.features if age_us >= -part.ahead_us else ()  # else of the request's future, as in `latest`
    for column, name in enumerate(here, part.at):
        value = feast_layout.decode_value(reply[1 + column - part.at])
        letters[column] = NULL if value is None else present
        if isinstance(value, bool | int | float):
            answer.values[column] = float(value)
            if answer.values[column] != value:  # an integer that no float64 carries
                answer.extras[f"{alias}:{name}"] = value
        elif value is not None:
            answer.extras[f"{alias}:{name}"] = value
    answer.letters = bytes(letters)
    answer.ages[part.number] = age_us / 1e6
    header = tiles.read_header(tiles.unseal(blob)) if blob else None
    ours = header is not None and header.event_us == event_us and header.mark_us > NEVER
    # written by stock Feast: what is known of the row is its own time
    answer.marks[part.number] = Mark(header.mark_us, header.ties, event_us) if ours and header else Mark(event_us, 1, event_us)
