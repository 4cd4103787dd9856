"""Events that nobody should send: what each is, and what must become of it. `applied` ones carry what they really say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.bench.storm.traffic.ledger import Expect, Sent

VICTIMS = (7, 41, 108)
"""Honest stations that poison is aimed at: what they hold must not change."""
STRANGERS = (900, 901, 902)
"""Stations of odd events that are to be applied."""
NOBODY = 950
"""The station of events that may be applied or rejected: what it holds is not judged."""

Maker = Callable[[int, datetime], tuple[str, bytes | dict[str, Any], dict[str, Any] | None]]


def ride(n: int, station: Any, at: datetime, kilometres: Any = 2.5, rider: Any = "member", **more: Any) -> dict[str, Any]:
    """A ride as it is put on the stream; its time in UTC."""
    moment = at.isoformat()
    return {"ride": n, "station": station, "rider_class": rider, "began": moment, "reported": moment, "kilometres": kilometres} | more


def _poison(**fields: Any) -> Maker:
    return lambda n, at: ("rides", ride(n, VICTIMS[n % 3], at) | fields, None)


def _dated(make: Callable[[datetime], Any], *names: str) -> Maker:
    return lambda n, at: ("rides", ride(n, VICTIMS[n % 3], at) | {name: make(at) for name in names}, None)


def _dock(**fields: Any) -> Maker:
    return lambda n, at: (
        "docks",
        {"station": VICTIMS[n % 3], "seen": at.isoformat(), "free_bikes": n % 20, "charge": 0.5, "n": n} | fields,
        None,
    )


def _raw(make: Callable[[int], bytes], source: str = "rides") -> Maker:
    return lambda n, _: (source, make(n), None)


def _odd(expect_kilometres: float | None = 2.5, **fields: Any) -> Maker:
    """A ride that is to be applied; what it says is in the table's own types."""

    def made(n: int, at: datetime) -> tuple[str, dict[str, Any], dict[str, Any]]:
        sent = ride(n, STRANGERS[n % 3], at) | fields
        rider = fields.get("rider_class", "member")
        said = {"ride": n, "station": STRANGERS[n % 3], "rider_class": rider, "began": at, "reported": at, "kilometres": expect_kilometres}
        return "rides", sent, said

    return made


def _long_ago(n: int, at: datetime) -> tuple[str, dict[str, Any], dict[str, Any]]:
    then = at - timedelta(days=9000)
    said = {"ride": n, "station": STRANGERS[n % 3], "rider_class": "member", "began": then, "reported": at, "kilometres": 2.5}
    return "rides", ride(n, STRANGERS[n % 3], at) | {"began": then.isoformat()}, said


MADE: list[tuple[str, Expect, Maker]] = [
    ("not JSON", "rejected", _raw(lambda n: b"{not json %d" % n)),
    ("not UTF-8", "rejected", _raw(lambda n: b'{"ride": %d, "rider_class": "\xff\xfe"}' % n)),
    ("a list", "rejected", _raw(lambda n: b"[%d]" % n)),
    ("deep", "rejected", _raw(lambda n: b'{"n": %d, "station": %s}' % (n, b"[" * 5000 + b"]" * 5000))),
    ("deep beside the fields", "either", lambda n, at: ("rides", _deep_beside(n, at), None)),
    ("nobody's source", "rejected", _raw(lambda n: b'{"n": %d}' % n, "nobody")),
    ("a key of 2**64 - 1", "rejected", _poison(station=2**64 - 1)),
    ("a key of 2**63", "rejected", _poison(station=2**63)),
    ("a key of -2**70", "rejected", _poison(station=-(2**70))),
    ("a key of 8.5", "rejected", _poison(station=8.5)),
    ("a key that is true", "rejected", _poison(station=True)),
    ("a key that is text", "rejected", _poison(station="x")),
    ("a key that is a list", "rejected", _poison(station=[7])),
    ("epoch in ms", "rejected", _dated(lambda at: round(at.timestamp() * 1e3), "began", "reported")),
    ("epoch in ns", "rejected", _dated(lambda at: round(at.timestamp() * 1e9), "began", "reported")),
    ("five years ahead", "rejected", _dated(lambda at: (at + timedelta(days=1826)).isoformat(), "began", "reported")),
    ("two days ahead", "rejected", _dated(lambda at: (at + timedelta(days=2)).isoformat(), "began", "reported")),
    ("the year 9998", "rejected", _dated(lambda at: "9998-01-01T00:00:00Z", "began", "reported")),
    ("known in five years", "rejected", _dated(lambda at: (at + timedelta(days=1826)).isoformat(), "reported")),
    ("a moment of 400 digits", "rejected", _dated(lambda at: 10**400, "began", "reported")),
    ("a moment in words", "rejected", _dated(lambda at: "yesterday", "began")),
    ("no moment", "rejected", _dated(lambda at: None, "began")),
    ("a dock report in ms", "rejected", lambda n, at: ("docks", _dock()(n, at)[1] | {"seen": round(at.timestamp() * 1e3)}, None)),  # type: ignore[operator]
    ("a dock report five years ahead", "rejected", lambda n, at: ("docks", _dock()(n, at)[1] | {"seen": _ahead(at)}, None)),  # type: ignore[operator]
    ("2**63 bikes", "rejected", _dock(free_bikes=2**63)),
    ("half a bike", "rejected", _dock(free_bikes=0.5)),
    ("a charge in words", "rejected", _dock(charge="full")),
    ("kilometres in words", "rejected", _poison(kilometres="far")),
    ("kilometres of 400 digits", "rejected", _poison(kilometres=10**400)),
    ("kilometres that are an object", "rejected", _poison(kilometres={"a": 1})),
    ("unknown fields", "applied", _odd(surprise={"a": [1, 2, 3]}, __proto__="x")),
    ("1e300 kilometres", "applied", _odd(1e300, kilometres=1e300)),
    ("-1e-320 kilometres", "applied", _odd(-1e-320, kilometres=-1e-320)),
    ("infinitely many kilometres", "applied", _odd(math.inf, kilometres={"$number": "Infinity"})),
    ("a class of rider in emoji", "applied", _odd(rider_class="🚲" * 40)),
    ("25 years late", "applied", _long_ago),
    ("no key", "either", _poison(station=None)),
    ("a number as class of rider", "either", _odd(station=NOBODY, rider_class=5)),
    ("a key in text", "either", _odd(station=str(NOBODY))),
    ("100 kB of rider", "either", _odd(station=NOBODY, rider_class="r" * 100_000)),
]
"""Kind, what must become of it, and how one is made from a number and the moment."""
FUTURE = [
    one for one in MADE if "ahead" in one[0] or "epoch" in one[0] or "9998" in one[0] or "in five years" in one[0] or "in ms" in one[0]
]
"""Those with a wrong clock."""


def _ahead(at: datetime) -> str:
    return (at + timedelta(days=1826)).isoformat()


def _deep_beside(n: int, at: datetime) -> bytes:
    return json.dumps(ride(n, NOBODY, at)).encode()[:-1] + b', "x": ' + b"[" * 3000 + b"]" * 3000 + b"}"


def event(n: int, kinds: list[tuple[str, Expect, Maker]] = MADE, at: datetime | None = None) -> Sent:
    """The n-th hostile event, dated by the clock as far as it is dated rightly."""
    kind, expect, make = kinds[n % len(kinds)]
    source, said, row = make(n, at or datetime.now(UTC))
    data = said if isinstance(said, bytes) else json.dumps(said, ensure_ascii=False).encode()
    return Sent(source, data, kind, expect, row if expect == "applied" else None)
