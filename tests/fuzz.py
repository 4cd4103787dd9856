"""How many inputs a fuzz test draws: some hundreds in CI, and as many as `HEADRACE_FUZZ` says (`HEADRACE_FUZZ=100000 pytest -k fuzz`).

A long run goes by Hypothesis' own way for fuzzers (`fuzz_one_input`): each input is made of random bytes, and nothing is remembered of the
ones before, which would cost more with every one of them. It prints its seed; `HEADRACE_FUZZ_SEED` draws the same again.

Inputs are valid ones with something changed (`spoilt`, `tests.serving.hostile.bodies`, `tests.oracle.hostile.events`), and bytes of any kind.
Which decoder has which test is in docs/testing.md.
"""

from __future__ import annotations

import functools
import inspect
import os
import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("HEADRACE_FUZZ", "400"))
_LONG = 10_000
_BYTES = 4096
"""What an input is made of at most; one that would take more is not drawn."""
_LIMITS = settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True)


def fuzzed(test: Any) -> Any:
    """A test under `@given` with as many inputs as `HEADRACE_FUZZ` says; it is written above `@given`."""
    assert hasattr(test, "hypothesis"), "@fuzzed is written above @given"
    return _LIMITS(test) if INPUTS < _LONG else _long(_LIMITS(test))


def _long(test: Any) -> Callable[..., None]:
    inner = test.hypothesis.inner_test

    @functools.wraps(inner)
    def run(**fixtures: Any) -> None:
        seed = int(os.environ.get("HEADRACE_FUZZ_SEED", random.SystemRandom().randrange(2**32)))
        print(f"HEADRACE_FUZZ_SEED={seed}")

        @functools.wraps(inner)
        def bound(*drawn: Any, **named: Any) -> None:
            inner(**fixtures, **dict(zip((p.name for p in left), drawn, strict=False)), **named)

        whole = inspect.signature(inner)  # Hypothesis' way for fuzzers takes no fixtures
        left = [p for name, p in whole.parameters.items() if name not in fixtures]
        bound.__signature__ = whole.replace(parameters=left)  # type: ignore[attr-defined]
        one: Any = _LIMITS(given(**test.hypothesis._given_kwargs)(bound))
        fuzz, bits = one.hypothesis.fuzz_one_input, random.Random(seed)
        done = tried = 0
        while done < INPUTS:
            tried += 1
            done += fuzz(bits.randbytes(_BYTES)) is not None
            assert tried < 100 or done > tried // 20, f"{done} of {tried} inputs could be drawn"

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


NUMBERS = st.sampled_from(
    [
        b"",
        b"0",
        b"-1",
        b"1.5",
        b"nan",
        b"inf",
        b"1e999",
        b"x",
        b"\xff",
        b" 7 ",
        b"1_000",
        b"\xc2\xb2",
        b"9" * 19,
        b"9" * 5000,
        b"7-",
        b"7-1",
        b"-",
    ]
)
"""What may lie where a number was written."""


@st.composite
def spoilt(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes that were written, with some of them exchanged, cut off, doubled or added; or bytes of any kind."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.binary(max_size=100))
    if kind == 1:
        return raw[: draw(st.integers(0, len(raw)))]
    if kind == 2:
        return raw + draw(st.binary(min_size=1, max_size=20))
    if kind == 3:
        first, last = sorted(draw(st.tuples(st.integers(0, len(raw)), st.integers(0, len(raw)))))
        return raw[:last] + raw[first:]
    found = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        if found:
            found[draw(st.integers(0, len(found) - 1))] = draw(st.integers(0, 255))
    return bytes(found)


@st.composite
def parquet_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A Parquet file that was cut, or is something else, or with its pages spoilt. Its footer is left as it is: Arrow itself ends the process
    on some that are none (`parquet::Statistics` of another type), which nothing in Python can see coming."""
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=100))
    if kind == 1:
        return whole[: draw(st.integers(0, len(whole)))]
    pages = bytearray(whole[:footer])
    for _ in range(draw(st.integers(1, 4))):
        pages[draw(st.integers(0, footer - 1))] = draw(st.integers(0, 255))
    return bytes(pages) + whole[footer:]
