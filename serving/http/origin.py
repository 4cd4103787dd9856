"""Who may ask: programs, and pages of this server itself - not a page of another site in somebody's browser.

A browser sends what any page tells it to, from inside the house. It gives itself away: by `Origin`, by the content types that a page
may send without asking first, and - where a stranger's name was made to point here (DNS rebinding) - by the `Host` it asks for.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

from serving.protocol.problem import Problem

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TAKEN = frozenset({b"application/json", b"application/octet-stream"})
"""Content types of bodies; none at all is taken as well, since several clients send none. What ends in `+json` is JSON too."""


class Stranger(Problem):
    """A page of another site, open in somebody's browser, asks for a change."""

    status, kind, title = 403, "foreign-origin", "Asked by a page of another site"


class OtherHost(Problem):
    """The `Host` that was asked for is no name of this server (HEADRACE_HOSTS gives it more names)."""

    status, kind, title = 421, "other-host", "Not the host that was asked for"


class OtherContent(Problem):
    """The body is neither `application/json` nor `application/octet-stream`."""

    status, kind, title = 415, "other-content", "The body's content type is not taken"


def host_name(header: bytes) -> str:
    """The name in a `Host` header, without port and brackets, lower case."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


class Origins:
    """Checks a request's head.

    Args:
        host: the address that the server binds.
        hosts: further names it goes by. Without any, and bound beyond loopback, every name is taken: it cannot know its own.
    """

    def __init__(self, host: str, hosts: Iterable[str] = ()) -> None:
        named = frozenset(h.strip().lower() for h in hosts if h.strip())
        self._names = LOOPBACK | {host.lower()} | named if host in LOOPBACK or named else None

    def check(self, scope: Scope) -> None:
        """
        Raises:
            OtherHost: another host's name was asked for (421).
            Stranger: a page of another site asks for a change (403).
            OtherContent: a body of a type that is none of ours (415).
        """
        host = origin = content = site = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"content-type":
                content = value
            elif name == b"sec-fetch-site":
                site = value
        if host and self._names is not None and host_name(host) not in self._names:
            raise OtherHost(
                f"This server does not go by the name {host_name(host)[:100]!r}: ask for {min(self._names)}, or name it in HEADRACE_HOSTS."
            )
        if scope["method"] != "POST":
            return
        if site == b"cross-site" or (origin and origin.partition(b"://")[2].lower() != host.lower()):
            raise Stranger("A page of another site asks here, and is not answered: call from a program, or from a page of this server.")
        kind = content.partition(b";")[0].strip().lower()
        if kind and kind not in TAKEN and not kind.endswith(b"+json"):
            raise OtherContent(f"Content-Type {kind.decode('latin-1')[:100]!r} is not taken: send application/json.")
