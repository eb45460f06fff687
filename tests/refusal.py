"""How every bad input is refused: one line that names what is wrong."""

from collections.abc import Callable
from typing import Any

import pytest

from mnv2_tasks.errors import InputError


def refused(make: Callable[[], Any], *words: str) -> None:
    """`make()` raises InputError in one line with all of these words."""
    with pytest.raises(InputError) as raised:
        make()
    text = str(raised.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text
