"""The shape of a tour of bad input: a call, the exception and its exact message."""

from __future__ import annotations

from typing import Any

import pytest


def case(expected: type[Exception], message: str, *arguments: Any, **options: Any):
    return pytest.param(arguments, options, expected, message, id=message[:70])


def raises(call, arguments, options, expected, message) -> None:
    with pytest.raises(expected) as caught:
        call(*arguments, **options)
    assert str(caught.value) == message
