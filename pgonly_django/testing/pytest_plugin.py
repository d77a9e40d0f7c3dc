"""Fixtures for pytest, which finds this plugin by itself. It imports nothing of Django before a fixture is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest


@pytest.fixture
def pgonly_drain(db: None) -> Callable[..., Any]:  # noqa: ARG001 - pytest-django's, which lets the test use the database
    """Returns drain() of pgonly_django.testing."""
    from pgonly_django.testing import drain

    return drain


@pytest.fixture
def pgonly_fake_limits() -> Iterator[Any]:
    """Yields what `with fake_limits()` of pgonly_django.testing gives, for the whole test."""
    from pgonly_django.testing import fake_limits

    with fake_limits() as limits:
        yield limits


@pytest.fixture
def pgonly_time_travel(db: None) -> Iterator[Callable[..., None]]:  # noqa: ARG001 - likewise
    """Yields time_travel() of pgonly_django.testing as a function, whose block lasts until the test's end."""
    from pgonly_django.testing import time_travel

    with ExitStack() as journeys:

        def go(to: timedelta | datetime, *, schedules: bool | Collection[str] = False) -> None:
            journeys.enter_context(time_travel(to, schedules=schedules))

        yield go
