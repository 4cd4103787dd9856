"""Errors as RFC 9457 problem details: one exception per kind, each carrying its status, and the sentence a caller can act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

MEDIA_TYPE = "application/problem+json"
SHOWN = 50
"""At most this many field errors are listed in one answer; `error_count` has them all."""


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a body.

    Attributes:
        message: what was wrong and what is allowed.
        row: index into `instances` (or `items`); None where the error is not one row's.
        field: the field's name as the caller wrote it.
    """

    message: str
    row: int | None = None
    field: str | None = None


class Problem(Exception):
    """An answer that is not the one asked for.

    Args:
        detail: a sentence: what was wrong, where, what to do.
        errors: the single faults, where there are several or they have a row and field.
        headers: further response headers (`Retry-After`, `Allow`).
        extensions: further members of the problem object (RFC 9457, section 3.2).
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, errors: Sequence[FieldError] = (), headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers or {}
        self.extensions = extensions

    def body(self) -> bytes:
        """The problem object, JSON in UTF-8."""
        return encode(self.status, self.title, self.detail, self.kind, self.errors, self.extensions)


class Malformed(Problem):
    """The body cannot be read: it is no JSON, no UTF-8 or no gzip, it is cut short, or it is nested too deep."""

    status, kind, title = 400, "malformed", "The body is not JSON"


class NotFound(Problem):
    """There is no such model, version, prediction, feature or push source; or its verdict or quality is not known yet."""

    status, kind, title = 404, "not-found", "Not found"


class TooSlow(Problem):
    """The headers came, and the body did not come in time."""

    status, kind, title = 408, "too-slow", "The request took too long to come in"


class Conflict(Problem):
    """Two labels are given for one moment of a prediction, or more truths than are kept of one."""

    status, kind, title = 409, "conflict", "In conflict with what is already known"


class TooLarge(Problem):
    """The body, or the number of its rows or columns, is beyond a limit (HEADRACE_MAX_BODY_MB, HEADRACE_MAX_ROWS)."""

    status, kind, title = 413, "too-large", "The request is too large"


class UnknownEncoding(Problem):
    """The body is packed in another way than gzip."""

    status, kind, title = 415, "unknown-encoding", "The body's encoding is not taken"


class Invalid(Problem):
    """The body can be read, and is not what is taken here; `errors` names each row and field."""

    status, kind, title = 422, "invalid", "The request is not what this model takes"


class Unavailable(Problem):
    """503 with `Retry-After`: no model answers yet, all replicas are busy, or Redis does not answer or refuses.

    Args:
        retry_after_s: seconds until another try is worth it.
    """

    status, kind, title = 503, "unavailable", "Not available right now"

    def __init__(self, detail: str, retry_after_s: int = 1, **extensions: Any) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)}, **extensions)


class Late(Problem):
    """504 with `Retry-After`: an on-demand function did not answer within the request's deadline.

    Args:
        retry_after_s: seconds until another try is worth it.
    """

    status, kind, title = 504, "late", "Not ready within the deadline"

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)})


def encode(
    status: int, title: str, detail: str, kind: str = "", errors: Sequence[FieldError] = (), extensions: dict[str, Any] | None = None
) -> bytes:
    """A problem object as JSON; without a `kind` its type is `about:blank` (RFC 9457, section 4.2.1)."""
    problem: dict[str, Any] = {"type": f"urn:headrace:problem:{kind}" if kind else "about:blank", "title": title, "status": status}
    problem["detail"] = detail
    if errors:
        problem["errors"] = list(errors[:SHOWN])
        if len(errors) > SHOWN:
            problem["error_count"] = len(errors)
    return msgspec.json.encode({**problem, **(extensions or {})})
