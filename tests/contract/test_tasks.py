from __future__ import annotations

import django
import pytest

from tests.contract import reasons
from tests.contract.running import run_suite

pytestmark = pytest.mark.slow

if django.VERSION >= (6, 0):  # Django 5.2 has no tasks, and the source distribution of its backport no tests

    def test_djangos_own_task_tests_pass_but_for_those_that_ask_for_another_backend():
        # Some of Django's coroutines read a result without `await`.
        ran, skips = run_suite("task", DJANGO_ALLOW_ASYNC_UNSAFE="1")
        assert ran > 100
        assert len(skips) == 4
        assert set(skips) == reasons.TASK
