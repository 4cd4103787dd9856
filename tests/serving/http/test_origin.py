"""Pages of other sites are not answered; programs and pages of this server are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http.origin import Origins, OtherContent, OtherHost, Stranger, host_name
from serving.protocol.problem import Problem


def _asked(method: str = "POST", **headers: str) -> dict[str, object]:
    return {"method": method, "headers": [(n.replace("_", "-").encode(), v.encode("latin-1")) for n, v in headers.items()]}


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
@pytest.mark.parametrize(
    "content", ["application/json", "application/json; charset=utf-8", "application/octet-stream", "application/x+json"]
)
def test_a_program_on_this_machine_is_answered(host: str, content: str) -> None:
    Origins("127.0.0.1").check(_asked(host=host, content_type=content))
    Origins("127.0.0.1").check(_asked(host=host))


def test_a_page_of_this_server_is_answered() -> None:
    Origins("127.0.0.1").check(
        _asked(host="localhost:8000", origin="http://localhost:8000", sec_fetch_site="same-origin", content_type="application/json")
    )


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9000", "null", "http://localhost:8000.evil.example"])
def test_a_page_of_another_site_changes_nothing(origin: str) -> None:
    with pytest.raises(Stranger):
        Origins("127.0.0.1").check(_asked(host="localhost:8000", origin=origin))
    with pytest.raises(Stranger):
        Origins("127.0.0.1").check(_asked(host="localhost:8000", sec_fetch_site="cross-site"))


@pytest.mark.parametrize("content", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "TEXT/PLAIN; x"])
def test_what_a_page_may_send_without_asking_first_is_no_body_of_ours(content: str) -> None:
    with pytest.raises(OtherContent, match="application/json"):
        Origins("127.0.0.1").check(_asked(host="localhost", content_type=content))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_strangers_name_that_points_here_is_refused_unless_it_was_named(method: str) -> None:
    with pytest.raises(OtherHost, match="HEADRACE_HOSTS"):
        Origins("127.0.0.1").check(_asked(method, host="rebound.example:8000"))
    Origins("127.0.0.1", ["models.example"]).check(_asked(method, host="models.example:8000"))
    with pytest.raises(OtherHost):
        Origins("0.0.0.0", ["models.example"]).check(_asked(method, host="rebound.example"))
    Origins("0.0.0.0").check(_asked(method, host="anything.example"))


@given(st.lists(st.tuples(st.sampled_from([b"host", b"origin", b"content-type", b"sec-fetch-site"]), st.binary(max_size=60)), max_size=6))
def test_no_head_breaks_the_check(headers: list[tuple[bytes, bytes]]) -> None:
    status = 0
    try:
        Origins("127.0.0.1", ["a.example"]).check({"method": "POST", "headers": headers})
    except Problem as refusal:
        status = refusal.status
    assert status in (0, 403, 415, 421)


@given(st.binary(max_size=80))
def test_a_host_header_of_any_bytes_has_a_name(header: bytes) -> None:
    assert isinstance(host_name(header), str)
