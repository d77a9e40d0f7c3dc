from __future__ import annotations

import pytest

from pgonly_django.compat import task_enqueued
from tests.tasks.calls import backend


@pytest.fixture
def announced():
    """The results with which task_enqueued was sent."""
    results: list = []

    def listen(sender, task_result, **_):
        assert sender is type(backend())
        results.append(task_result)

    task_enqueued.connect(listen)
    yield results
    task_enqueued.disconnect(listen)
