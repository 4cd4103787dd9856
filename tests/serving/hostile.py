"""Bodies and headers as nobody should send them: a request that is answered, with something wrong in one place or in many."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

from hypothesis import strategies as st

DEEP = 3000
_FRAGMENTS = st.one_of(
    st.sampled_from(
        [
            b"null", b"true", b"false", b"-1", b"8.9", b"8.0", b"0", b'""', b'"8.9"', b'"\xc2\xb2"', b'"\xd9\xa3"', b"[]", b"{}", b"[[]]",
            b"9" * 400, b"-" + b"9" * 400, b"9" * 5000, b"1e999", b"1e-999", b"-1e308", b"18446744073709551616", b"9223372036854775808",
            b"1" + b"0" * 300 + b".5", b"NaN", b"Infinity", b'"NaN"', b"\xff", b'"\xff"', b'"\\ud800"', b'"\\u0000"', b'"9999-12-31T23:59:59Z"',
            b'"0001-01-01T00:00:00+23:59"', b"253402300800", b"-62135596801", b'"2013"', b'"' + b"x" * 5000 + b'"',
            b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"[" * 100_000, b"[1,2]", b'{"a":1}', b'["a",null]',
        ]
    ),
    st.integers().map(lambda n: str(n).encode()),
    st.floats().map(lambda x: json.dumps(x).encode()),
    st.text(max_size=20).map(lambda t: json.dumps(t).encode()),
)  # fmt: skip
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null')


@st.composite
def bodies(draw: st.DrawFn, *valid: Any) -> bytes:
    """One of the valid bodies with a few of its values replaced, then perhaps bytes changed or cut; or bytes of any kind."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        return draw(_FRAGMENTS)
    body = json.dumps(draw(st.sampled_from(valid))).encode()
    for _ in range(draw(st.integers(1, 3))):
        tokens = list(_TOKEN.finditer(body))
        if not tokens:
            break
        chosen = tokens[draw(st.integers(0, len(tokens) - 1))]
        body = body[: chosen.start()] + draw(_FRAGMENTS) + body[chosen.end() :]
        if len(body) > 50_000:
            break
    if kind == 2 and body:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + 1 :]
    if kind == 3:
        body = body[: draw(st.integers(0, len(body)))]
    return body


_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(["x-request-timeout-ms", "x-route-key", "content-encoding", "inference-header-content-length", "content-type"]),
    st.one_of(st.sampled_from(["\xb2", "0", "-1", "1e9", "nan", "inf", "5000", "1_000", "gzip", "br", "identity", "9" * 30, "10"]), _TEXT),
    max_size=2,
).map(lambda found: {name: value.encode("latin-1") for name, value in found.items()})
NAMES = st.one_of(st.sampled_from(["\u00b2", "..", "%00", "1", "01", "9" * 5000, "-1", "", "a/b", "\u0663"]), st.text(max_size=10))


def packed(body: bytes) -> bytes:
    return gzip.compress(body, 1)
