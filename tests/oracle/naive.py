"""The meaning of windows and of the point-in-time join, from the definition, one example at a time. Slow on purpose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ddsketch.mapping import LogarithmicMapping

from streaming.aggregation.windows import Aggregation


@dataclass(frozen=True)
class Event:
    key: object
    event_us: int
    known_us: int
    values: dict[str, Any]


def visible(events: Sequence[Event], key: object, t_us: int, mark: tuple[int, int] | None = None) -> list[Event]:
    """Events of `key` that an example at t may see; with a mark `(known, ties)`, only what had been applied by then."""
    own = [e for e in events if e.key == key and key is not None]
    if mark is None:
        known = [e for e in own if e.known_us <= t_us]
    else:
        known = [e for e in own if e.known_us < mark[0]] + [e for e in own if e.known_us == mark[0]][: mark[1]]
    return [e for e in known if e.event_us <= t_us]


def window(events: Sequence[Event], aggregation: Aggregation, key: object, t_us: int, mark: tuple[int, int] | None = None) -> float | None:
    start = t_us - aggregation.window_us
    start -= start % aggregation.hop_us
    inside = [e for e in visible(events, key, t_us, mark) if e.event_us >= start]
    pairs = [(e, v) for e in inside if (v := e.values.get(aggregation.column)) is not None and v == v]
    values = [v for _, v in pairs]
    match aggregation.function:
        case "count":
            return float(len(values))
        case "sum":
            return total(values)
        case "count_distinct":
            return float(len(set(values)))
        case _ if not values:
            return None
        case "mean":
            s = total(values)
            return None if s is None else s / len(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "first":
            return min(pairs, key=lambda p: (p[0].event_us, p[0].known_us, p[1]))[1]
        case "last":
            return max(pairs, key=lambda p: (p[0].event_us, p[0].known_us, p[1]))[1]
        case "std":
            if len(values) < 2 or not all(map(math.isfinite, values)):
                return None
            exact = [Fraction(v) for v in values]
            mean = sum(exact) / len(exact)
            return math.sqrt(sum((v - mean) ** 2 for v in exact) / (len(exact) - 1))
        case "range":
            apart = max(values) - min(values)
            return None if apart != apart else apart
        case function if function.startswith("ewma_"):
            return decayed([(e.event_us, v) for e, v in pairs], half_life_us(function), aggregation.hop_us)
        case "median":
            return quantile(values, 0.5)
        case function if function[0] == "p":
            return quantile(values, float(function[1:]) / 100)
    raise AssertionError(aggregation.function)


def half_life_us(function: str) -> int:
    """Of `ewma_6h`."""
    return int(function[5:-1]) * {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}[function[-1]]


def decayed(pairs: Sequence[tuple[int, float]], half_life: int, hop_us: int) -> float | None:
    """The mean of values (event time, value) that weigh 2 ** (beginning of their hop / half-life).

    A weight is a power of two times one of as many float64 as a half-life has hops; so sums of weights are exact as fractions.
    """
    hops = half_life // hop_us
    places = [divmod(at // hop_us, hops) for at, _ in pairs]
    newest = max(power for power, _ in places)
    weights = [Fraction(2.0 ** (hop / hops - 1)) / 2 ** (newest - power) for power, hop in places]
    values = [v for _, v in pairs]
    whole = float(sum(weights))
    if not all(map(math.isfinite, values)):
        s = sum(v for v in values if not math.isfinite(v))
        return None if math.isnan(s) else s
    return float(sum(w * Fraction(v) for w, v in zip(weights, values, strict=True))) / whole


def quantile(values: Sequence[float], q: float) -> float:
    """The value at rank floor(q * (n - 1)), as far as a DDSketch of 1 % tells it."""
    exact = sorted(values)[math.floor(q * (len(values) - 1))]
    mapping = LogarithmicMapping(0.01)
    if math.isinf(exact) or abs(exact) < mapping.min_possible:
        return exact if math.isinf(exact) else 0.0
    return math.copysign(mapping.value(mapping.key(min(abs(exact), mapping.max_possible))), exact)


def total(values: Sequence[float]) -> float | None:
    if all(map(math.isfinite, values)):
        return float(sum(map(Fraction, values), Fraction(0)))
    s = sum(v for v in values if not math.isfinite(v))
    return None if math.isnan(s) else s


def latest(events: Sequence[Event], key: object, t_us: int, ttl_us: int, mark: tuple[int, int] | None = None) -> Event | None:
    candidates = [e for e in visible(events, key, t_us, mark) if not ttl_us or e.event_us >= t_us - ttl_us]
    if not candidates:
        return None
    order = {id(e): i for i, e in enumerate(events)}
    return max(candidates, key=lambda e: (e.event_us, e.known_us, order[id(e)]))
