from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import OperationalError, transaction

from pgonly_django.database.on_django import time_limit, timed_out
from pgonly_django.models import Job
from tests.sql import setting, sql

pytestmark = pytest.mark.django_db
LIMIT = "statement_timeout"


def test_the_limit_ends_a_statement_and_leaves_the_transaction_usable():
    with pytest.raises(OperationalError) as raised, time_limit("default", timedelta(milliseconds=20)):
        sql("SELECT pg_sleep(5)")
    assert timed_out(raised.value)
    assert Job.objects.count() == 0


def test_inside_nothing_is_compiled_and_afterwards_the_settings_are_back():
    sql("SET LOCAL jit = on")
    before = setting(LIMIT)
    with time_limit("default", timedelta(seconds=9)):
        assert (setting(LIMIT), setting("jit")) == ("9s", "off")
    assert (setting(LIMIT), setting("jit")) == (before, "on")


@pytest.mark.django_db(transaction=True)
def test_outside_of_a_transaction_the_limit_ends_with_its_own():
    with time_limit("default", timedelta(seconds=9)):
        assert setting(LIMIT) == "9s"
    assert setting(LIMIT) == "0"


@pytest.mark.django_db(transaction=True)
def test_a_caller_without_autocommit_keeps_its_own_limit():
    transaction.set_autocommit(False)
    try:
        with time_limit("default", timedelta(seconds=9)):
            assert setting(LIMIT) == "9s"
        assert setting(LIMIT) == "0"
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
