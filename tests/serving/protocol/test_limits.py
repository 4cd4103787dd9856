"""What a number is."""

from __future__ import annotations

import pytest

from serving.protocol.limits import natural


@pytest.mark.parametrize("text", ["²", "٣", "", "-1", "1.0", "1_0", "9" * 19, " 1"])
def test_a_digit_of_another_script_is_no_number(text: str) -> None:
    assert natural(text) is None
