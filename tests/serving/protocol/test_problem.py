from __future__ import annotations

import json

from serving.protocol.problem import SHOWN, FieldError, Invalid, NotFound, Unavailable


def test_a_problem_has_the_members_of_rfc_9457_and_its_own() -> None:
    body = json.loads(NotFound("There is no x.", models=["a"]).body())
    assert body == {
        "type": "urn:headrace:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": "There is no x.",
        "models": ["a"],
    }


def test_errors_name_row_and_field_only_where_there_are_any() -> None:
    body = json.loads(Invalid("d", [FieldError("m", 0, "f"), FieldError("n")]).body())
    assert body["errors"] == [{"message": "m", "row": 0, "field": "f"}, {"message": "n"}]


def test_a_long_list_of_errors_is_cut_and_counted() -> None:
    body = json.loads(Invalid("d", [FieldError("m", i) for i in range(SHOWN + 1)]).body())
    assert (len(body["errors"]), body["error_count"]) == (SHOWN, SHOWN + 1)


def test_unavailable_says_when_to_try_again() -> None:
    assert Unavailable("d", retry_after_s=3).headers == {"retry-after": "3"}
