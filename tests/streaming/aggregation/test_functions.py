"""Every aggregation function, as a member of its kind: what all of them promise, run over each that is in the table."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.settings import ROOT
from streaming.aggregation import tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.functions.base import Function
from streaming.aggregation.functions.table import EXAMPLES, FUNCTIONS, function_of
from streaming.aggregation.windows import DAY, HOUR, MINUTE, Aggregation, Layout
from streaming.join.point_in_time import Events, Spine, aggregate

EXACT = [name for name in EXAMPLES if function_of(name).sketch is None]
values = st.lists(
    st.tuples(st.integers(0, 30 * HOUR), st.integers(0, 3), st.one_of(st.floats(-1e9, 1e9), st.just(math.nan), st.just(0.1))),
    min_size=1,
    max_size=30,
)


def layout_of(name: str) -> tuple[Layout, Aggregation]:
    aggregation = Aggregation("f", "x", name, DAY, 10 * MINUTE)
    return Layout.of([aggregation]), aggregation


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_is_one_class_in_one_file_and_its_examples_are_its_own(kind: type[Function]) -> None:
    module = sys.modules[kind.__module__]
    own = [
        one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Function) and one.__module__ == module.__name__
    ]
    assert own == [kind]
    assert kind.examples
    assert {type(function_of(name)) for name in kind.examples} == {kind}


def test_no_two_functions_have_a_name_in_common() -> None:
    for name in EXAMPLES:
        assert [kind for kind in FUNCTIONS if _of(kind, name) is not None] == [type(function_of(name))]


def _of(kind: type[Function], name: str) -> Function | None:
    try:
        return kind.of(name)
    except ValueError:
        return None


def test_a_name_that_is_none_s_is_told_all_there_are() -> None:
    with pytest.raises(ValueError, match="is not one of") as caught:
        function_of("mode")
    assert all(kind.shown in str(caught.value) for kind in FUNCTIONS)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_is_in_the_docs(kind: type[Function]) -> None:
    name = kind.shown.split(" ")[0]
    for page in ("README.md", "docs/semantics.md"):
        assert f"`{name}`" in (ROOT / page).read_text(), page


@pytest.mark.parametrize("name", EXACT)
@given(
    some=st.lists(
        st.tuples(st.integers(0, 20 * HOUR), st.floats(-1e6, 1e6).filter(lambda x: not 0 < abs(x) < 1e-6)), min_size=1, max_size=12
    ),
    scale=st.sampled_from([1.0, 0.1, 1e148, 1e-160]),
)
@settings(max_examples=60, deadline=None)
def test_tiles_give_the_join_s_number_to_the_bit(name: str, some: list[tuple[int, float]], scale: float) -> None:
    """`finish_tiles` against `finish`: what serving reads and what training joins are one number, also of values whose squares leave
    float64. (Where values of a window differ by more than 2**100, docs/semantics/windows.md promises less.)
    """
    layout, aggregation = layout_of(name)
    event, column = (np.array(part) for part in zip(*some, strict=True))
    column = column * scale
    key = np.zeros(len(event), dtype=np.int64)
    joined = aggregate(layout, Events(key, event, event), {"x": column}, Spine(key[:1], np.array([20 * HOUR])))["f"][0]
    parts = [next(tiles.build(level, key, event, event, {"x": column}).slices(1)) for level in tiles.levels_of(layout)]
    blob = tiles.encode(tiles.Header(tiles.fingerprint(layout), mark_us=20 * HOUR), parts)
    read = Finisher(layout)(blob, 20 * HOUR)[0]
    close = name == "std" and math.isclose(read, joined, rel_tol=1e-9, abs_tol=1e-9 * scale)  # squares cancel
    assert close or float(read).hex() == float(joined).hex() or (math.isnan(read) and math.isnan(joined)), (read, joined)
    assert aggregation.function == name


@pytest.mark.parametrize("name", EXACT)
@given(some=values, order=st.randoms())
@settings(max_examples=60, deadline=None)
def test_a_value_does_not_depend_on_the_order_or_grouping_of_the_merges(
    name: str, some: list[tuple[int, int, float]], order: random.Random
) -> None:
    layout, aggregation = layout_of(name)
    event = np.array([at for at, _, _ in some])
    leaves = layout.prepare({"x": np.array([x for *_, x in some])}, event, event + np.array([lag for _, lag, _ in some]))
    results = set()
    for _ in range(3):
        states = [leaves[:, i : i + 1] for i in range(len(some))]
        while len(states) > 1:
            a, b = (states.pop(order.randrange(len(states))) for _ in range(2))
            states.append(layout.merge(a, b))
        results.add(float(layout.finish(aggregation, states[0])[0]).hex())
    if name == "std":  # its last bits are of a difference (docs/semantics.md)
        finished = [float.fromhex(one) for one in results]
        assert max(finished) == pytest.approx(min(finished), rel=1e-12, abs=1e-12, nan_ok=True)
    else:
        assert len(results) == 1


@pytest.mark.parametrize("name", EXACT)
def test_a_state_without_events_changes_nothing(name: str) -> None:
    layout, aggregation = layout_of(name)
    at = np.array([7 * HOUR])
    one, none = layout.prepare({"x": np.array([2.5])}, at, at), layout.identity(1)
    for merged in (layout.merge(one, none), layout.merge(none, one)):
        assert layout.finish(aggregation, merged).tobytes() == layout.finish(aggregation, one).tobytes()
    nothing = layout.finish(aggregation, layout.merge(none, none))
    assert nothing.tobytes() == layout.finish(aggregation, none).tobytes()


def test_a_weight_halves_every_half_life_and_stays_between_two_hops() -> None:
    layout, aggregation = layout_of("ewma_1h")

    def value(*events: tuple[int, float]) -> float:
        at = np.array([moment for moment, _ in events])
        leaves = layout.prepare({"x": np.array([x for _, x in events])}, at, at)
        state = leaves[:, :1]
        for i in range(1, len(events)):
            state = layout.merge(state, leaves[:, i : i + 1])
        return float(layout.finish(aggregation, state)[0])

    assert value((0, 3.0)) == 3.0
    assert value((0, 0.0), (HOUR, 3.0)) == pytest.approx(2.0)  # weights 1 and 2
    assert value((0, 0.0), (2 * HOUR, 5.0)) == pytest.approx(4.0)  # weights 1 and 4
    assert value((0, 0.0), (10 * MINUTE - 1, 1.0)) == 0.5, "of one hop both weigh the same"
    assert value((0, 0.0), (30 * MINUTE, 1.0)) == pytest.approx(2**0.5 / (1 + 2**0.5))
    assert value((0, 1.0), (4000 * HOUR, 7.0)) == 7.0, "so long ago is nothing"


@pytest.mark.parametrize(
    ("name", "hop", "says"),
    [
        ("ewma", 0, "has no half-life"),
        ("ewma_7m", 5 * MINUTE, "whole hops"),
        ("ewma_1m", 5 * MINUTE, "whole hops"),
        ("ewma_0h", 0, "half-life"),
    ],
)
def test_a_half_life_that_cannot_be_is_refused_by_name(name: str, hop: int, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Aggregation("load", "x", name, HOUR, hop)
    assert "'load'" in str(caught.value)
