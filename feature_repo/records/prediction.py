"""One logged prediction: what was asked, what was read, what was answered. Written by serving, read by the skew proof and the watch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from infra import files

STALE = b"s"
"""The letter of a value past its view's ttl: shown, logged, and null to the model."""


class Status(NamedTuple):
    """What is known of one value of a prediction.

    Attributes:
        letter: as it is logged.
        name: as answers and passports say it.
        meaning: when a value has it.
        model: what the model gets of such a value, before the input's null policy.
    """

    letter: str
    name: str
    meaning: str
    model: str


STATUSES = (
    Status("f", "fresh", "The value is there, and it is not older than its view's `ttl`.", "the value"),
    Status("s", "stale", "The value is there, and it is older than its view's `ttl`.", "null"),
    Status("n", "null", "The row or the window is there, and its value is null.", "null"),
    Status(
        "m",
        "missing",
        "The store has no row of this entity, or none that can be relied on, or the entity key is null.",
        "null; of an entity without events, `count` and `sum` are 0, as in training",
    ),
    Status("r", "request", "The value is not read from the store: it is from the request, or an on-demand view made it.", "the value"),
)

MODEL = re.compile(r"[a-z][a-z0-9_]*")
"""What a model may be called: it is part of keys and of folders."""
Moment = Annotated[int, msgspec.Meta(ge=-62_135_596_800_000_000, le=253_402_300_799_999_999)]
"""Microseconds since the epoch (UTC), of the years 1 to 9999: what is beyond is no moment, and an entry that says so is none."""
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Kind = TypeVar("Kind")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def is_prediction_id(text: str) -> bool:
    """Whether it is shaped like a prediction's id, a UUID version 7 (RFC 9562)."""
    return _ID.fullmatch(text) is not None


def id_ms(number: str) -> int:
    """The moment in a prediction's id, milliseconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    if not is_prediction_id(number):
        raise ValueError(f"{number[:50]!r} is no prediction id")
    return int(number[:8] + number[9:13], 16)


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """High-water mark of one view for one entity: what its value was made of.

    Attributes:
        known_us: known-time of the last event applied, microseconds since the epoch; None where the view had no row.
        ties: how many events of exactly that known-time had been applied.
        event_us: event time of the latest-value row served; of a windowed view the newest event, where that is later than the request.
    """

    known_us: Whole | None
    ties: Whole
    event_us: Whole | None


class Prediction(msgspec.Struct, frozen=True):
    """
    Attributes:
        at_us: the request's own now, microseconds since the epoch (UTC).
        wall_us: the server's clock.
        request: the instance as it came: entity keys and request fields.
        values: the model's inputs in the contract's order, before null policies; None is null.
        statuses: one letter per input: f(resh) s(tale) n(ull) m(issing) r(equest or on-demand).
        marks: by view name.
        role: of the version that answered: `champion`, `canary`; `shadow` where it did not.
        of: a shadow's: id of the prediction that was answered.
    """

    id: str
    model: str
    version: Whole
    at_us: Moment
    wall_us: Moment
    request: dict[str, str | int | float | bool | None]
    values: list[float | None]
    statuses: str
    marks: dict[str, Mark]
    score: float
    role: str = "champion"
    of: str | None = None


class Label(msgspec.Struct, frozen=True):
    """One truth, as it goes on the stream of truths: it became known at `at_us`, microseconds since the epoch (UTC).

    A prediction may have several: a correction stands beside what was known before, with its own moment; the latest holds.
    """

    model: str
    prediction_id: str
    label: int
    at_us: int


class Truths(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of one prediction, as it lies in Redis.

    Attributes:
        label, at_us: the truth that holds: the one known latest, and when it became known (microseconds since the epoch).
        before: what was known earlier, `(label, at_us)`, oldest first.
    """

    label: Annotated[int, msgspec.Meta(ge=0, le=1)]
    at_us: Moment
    before: tuple[tuple[int, Moment], ...] = ()

    @property
    def all(self) -> tuple[tuple[int, int], ...]:
        """Every truth, oldest first."""
        return (*self.before, (self.label, self.at_us))

    def known_at(self, at_us: int) -> int | None:
        """The label that held at a moment; None: none was known."""
        return next((label for label, at in reversed(self.all) if at <= at_us), None)

    def corrected(self, label: int, at_us: int) -> Truths:
        """With another truth, in its place by time."""
        *before, (last, last_us) = sorted((*self.all, (label, at_us)), key=lambda one: one[1])
        return Truths(last, last_us, tuple(before))


def logged(fields: Mapping[bytes, bytes], kind: type[Kind]) -> Kind:
    """What an entry of the prediction log says, as a `Prediction` or as a part of one.

    Raises:
        ValueError: it is none, whatever it is; who reads the log goes on with the next.
    """
    return files.parse(fields.get(b"p", b""), kind)


def sound(entries: Iterable[tuple[Any, Mapping[bytes, bytes]]]) -> tuple[list[Prediction], int]:
    """The predictions among entries of the log (stream id, fields), and how many are none: those are passed over."""
    found, broken = [], 0
    for _, fields in entries:
        try:
            found.append(logged(fields, Prediction))
        except ValueError:
            broken += 1
    return found, broken


def known_truths(raw: bytes | None) -> Truths | None:
    """What Redis holds of one prediction's truths; None where there is nothing, or something else."""
    try:
        return files.parse(raw, Truths) if raw else None
    except ValueError:
        return None


def rows(some: Sequence[Sequence[float | None]], letters: Sequence[str], width: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Logged values and statuses as arrays, float64 and uint8 [rows, width]; NaN is null, and `r` where an entry has no letter per value."""
    texts = "".join(text if len(text) == width else "r" * width for text in letters)
    values = np.array([[np.nan if v is None else v for v in one] for one in some], dtype=np.float64).reshape(len(some), width)
    return values, np.frombuffer(texts.encode("ascii", "replace"), dtype=np.uint8).reshape(len(letters), width)
