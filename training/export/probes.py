"""Rows that show where an export of a LightGBM model goes wrong: at every split, and at values that number formats are odd about.

Rows that were held out say little about an export: hardly one lies on a threshold. So every split of every tree is probed on its own. A real
row is moved just as far as needed to arrive at the split (`reach`), and its input is then set to the threshold, to the doubles beside it, to
the float32 nearest and the float32s beside that, to null, zero and infinity. Both ways of every split are taken, so every leaf is seen.
Besides, each input of a few real rows, and all inputs at once, are null, zero, infinite, very large, denormal, negated, off any grid.

How LightGBM decides is in `Tree::NumericalDecision` and `Tree::CategoricalDecision` (include/LightGBM/tree.h): a category is the value
cut to an integer, null and negative ones are in no set. Two things are not said there. Prediction from a dense matrix takes
|value| <= 1e-35f for 0 before it decides (src/c_api.cpp), so a value on the threshold -1e-35f goes right. And the threshold of a split that
parts null from all else is infinite, though the dump prints 1e300 (`Common::AvoidInf`), so +inf goes left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import lightgbm

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
CATEGORIES = 64
"""Of an input with more categories, this many are tried at each of its splits, evenly."""
CHUNK = 8_192
ZERO = float(np.float32(1e-35))
"""LightGBM's kZeroThreshold."""
_INFINITE = 1e300
"""What the dump prints for an infinite threshold."""
_MOST = float(np.finfo(np.float64).max)
_EXTREMES = [s * v for v in (np.inf, _MOST, 1e300, 3.4028235677973366e38, 2.0**53 + 2, 2.0**31, 1.2e-38, 2.3e-308, 5e-324) for s in (1, -1)]
_FIXED = [("nulls", np.nan), *(("zeros", z) for z in (0.0, -0.0, ZERO, -ZERO)), *(("extremes", v) for v in _EXTREMES)]
_ODD: list[Callable[[Floats], Floats]] = [np.negative, np.floor, lambda v: v + 0.5, lambda v: v * (1 + 1e-7), lambda v: v * 1e6]


class Split(NamedTuple):
    """A split and the way to it. `left` says which way of `parent` leads here; `categories` is None where the split is numerical."""

    feature: int
    threshold: float
    categories: frozenset[int] | None
    parent: Split | None
    left: bool


class Batch(NamedTuple):
    kind: str
    matrix: Floats
    features: Indices | None
    """The input that was set, by row; -1 for all of them. None where the rows are as they were, counted from `first`."""
    first: int = 0


def splits(booster: lightgbm.Booster) -> list[Split]:
    """Every split of the trees that predict, each after its parent; without recursion, as a tree may be deeper than Python's stack."""
    best = booster.best_iteration if booster.best_iteration > 0 else None
    found: list[Split] = []
    for tree in booster.dump_model(num_iteration=best)["tree_info"]:
        todo: list[tuple[dict[str, Any], Split | None, bool]] = [(tree["tree_structure"], None, False)]
        while todo:
            spec, parent, left = todo.pop()
            if "split_feature" not in spec:
                continue
            by_set = spec["decision_type"] == "=="
            members = frozenset(map(int, str(spec["threshold"]).split("||"))) if by_set else None
            split = Split(int(spec["split_feature"]), 0.0 if by_set else _threshold(spec), members, parent, left)
            found.append(split)
            todo += [(spec["left_child"], split, True), (spec["right_child"], split, False)]
    return found


def _threshold(spec: dict[str, Any]) -> float:
    threshold = float(spec["threshold"])
    return np.inf if threshold >= _INFINITE else threshold


def reach(row: Floats, split: Split) -> None:
    """Move a row `[inputs]`, in place, just as far as needed for it to arrive at a split. What already fits stays what it was."""
    low: dict[int, float] = {}
    high: dict[int, float] = {}
    allowed: dict[int, frozenset[int]] = {}
    refused: dict[int, frozenset[int]] = {}
    child, above = split, split.parent
    while above is not None:
        f = above.feature
        if above.categories is not None:
            if child.left:
                allowed[f] = allowed.get(f, above.categories) & above.categories
            else:
                refused[f] = refused.get(f, frozenset()) | above.categories
        elif child.left:
            high[f] = min(high.get(f, np.inf), above.threshold)
        else:
            low[f] = max(low.get(f, -np.inf), above.threshold)
        child, above = above, above.parent
    for f in low.keys() | high.keys():
        bottom, top = low.get(f, -np.inf), high.get(f, np.inf)
        if not bottom < row[f] <= top:  # neither does NaN
            # nothing but null is right of an infinite threshold
            row[f] = np.nan if bottom == np.inf else top if np.isfinite(top) else np.nextafter(bottom, np.inf)
            if -ZERO <= row[f] < 0 and top < 0:
                row[f] = np.nextafter(-ZERO, -np.inf)  # LightGBM would take it for 0, on the other side
    for f in allowed.keys() | refused.keys():
        wanted = allowed.get(f, frozenset()) - refused.get(f, frozenset())
        category = int(row[f]) if np.isfinite(row[f]) else -1
        if f in allowed and wanted and category not in wanted:
            row[f] = min(wanted)
        elif f not in allowed and category in refused[f]:
            row[f] = max(refused[f]) + 1


def _tried(splits: list[Split]) -> dict[int, Floats]:
    """Of each input split by category, the values to try: categories seen, inside their integer, beyond the last, negative, beyond int32."""
    seen: dict[int, set[int]] = {}
    for s in splits:
        if s.categories is not None:
            seen.setdefault(s.feature, set()).update(s.categories)
    tried = {}
    for f, found in seen.items():
        known = np.array(sorted(found), dtype=np.float64)
        known = known[np.unique(np.linspace(0, len(known) - 1, min(CATEGORIES, len(known))).astype(int))]
        odd = [-1.0, -0.5, np.nextafter(-1.0, 0), known[-1] + 1, 2.0**31 - 1, 2.0**31, 2.0**32 + known[0], np.inf, -np.inf]
        tried[f] = np.concatenate([known, known + 0.5, np.nextafter(known + 1, 0), odd])
    return tried


def _values(splits: list[Split], tried: dict[int, Floats]) -> Iterator[tuple[str, Indices, Floats]]:
    """Kind, which of the splits `[k]`, and what its input is set to `[k]`."""
    every = np.arange(len(splits))
    yield "nulls", every, np.full(len(splits), np.nan)
    yield "zeros", every, np.zeros(len(splits))
    yield "zeros", every, np.full(len(splits), -ZERO)
    yield "extremes", every, np.full(len(splits), np.inf)
    numerical = np.flatnonzero([s.categories is None for s in splits])
    t = np.array([splits[i].threshold for i in numerical])
    with np.errstate(over="ignore"):  # beyond float32: it is infinite there
        narrow = t.astype(np.float32)
        beside = [np.nextafter(narrow, np.float32(s * np.inf)).astype(np.float64) for s in (1, -1)]
    for value in (t, np.nextafter(t, -np.inf), np.nextafter(t, np.inf)):
        yield "thresholds", numerical, value
    for value in (narrow.astype(np.float64), *beside):
        yield "float32", numerical, value
    sets = [(i, tried[s.feature]) for i, s in enumerate(splits) if s.categories is not None]
    if sets:
        yield "categories", np.concatenate([np.full(len(v), i) for i, v in sets]), np.concatenate([v for _, v in sets])


def at_splits(splits: list[Split], anchors: Floats) -> Iterator[Batch]:
    """Anchors `[k, inputs]` are the real rows that are moved, in turn."""
    tried = _tried(splits)
    for start in range(0, len(splits), CHUNK):
        part = splits[start : start + CHUNK]
        there = anchors[np.arange(start, start + len(part)) % len(anchors)]
        for row, split in zip(there, part, strict=True):
            reach(row, split)
        features = np.array([s.feature for s in part])
        for kind, which, values in _values(part, tried):
            for cut in range(0, len(which), CHUNK):
                at = which[cut : cut + CHUNK]
                matrix = there[at]
                matrix[np.arange(len(at)), features[at]] = values[cut : cut + CHUNK]
                yield Batch(kind, matrix, features[at])


def at_inputs(bases: Floats) -> Iterator[Batch]:
    """Every value a caller or a table could come up with, in each input of each base row `[k, inputs]`, and in all inputs at once."""
    inputs = bases.shape[1]
    for kind, value in _FIXED:
        yield Batch(kind, np.full((1, inputs), value), np.array([-1]))
    step = max(1, CHUNK // len(bases))
    for start in range(0, inputs, step):
        features = np.repeat(np.arange(start, min(start + step, inputs)), len(bases))
        rows = np.tile(bases, (len(features) // len(bases), 1))
        every = np.arange(len(features))
        for kind, value in _FIXED:
            matrix = rows.copy()
            matrix[every, features] = value
            yield Batch(kind, matrix, features)
        for change in _ODD:
            matrix = rows.copy()
            with np.errstate(over="ignore"):
                matrix[every, features] = change(rows[every, features])
            yield Batch("numbers", matrix, features)


def count(chosen: list[Split], bases: int, inputs: int) -> int:
    """How many probes `at_splits` and `at_inputs` give."""
    tried = _tried(chosen)
    at_splits = sum(4 + (6 if s.categories is None else len(tried[s.feature])) for s in chosen)
    return at_splits + len(_FIXED) + inputs * bases * (len(_FIXED) + len(_ODD))
