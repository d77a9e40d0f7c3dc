"""Sixteen processes, killed at random, and one cap. TEST_BUDGET_SECONDS=30 runs it for longer."""

from __future__ import annotations

import json
import os
import signal
import time
from decimal import Decimal

import pytest
from django.db.models import F, Sum

from pgonly_django.limits import expiry
from pgonly_django.models import Budget, CostEntry, Reservation
from tests import activity
from tests.limits.conftest import start_crowd
from tests.limits.rows import make_reservations_expire
from tests.sql import sql
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.django_db(transaction=True), pytest.mark.slow]

SECONDS = float(os.environ.get("TEST_BUDGET_SECONDS", "6"))
CAP = Decimal("1.00")


def test_sixteen_processes_that_are_killed_never_pass_the_cap_and_leave_nothing_reserved():
    process = start_crowd("spend", 16, {}, seconds=SECONDS)
    pids = [json.loads(process.stdout.readline()) for _ in range(16)]
    looks, highest, kill_at = 0, Decimal(0), time.monotonic() + SECONDS / 16
    while process.poll() is None:
        for total in Budget.objects.values_list(F("spent") + F("reserved"), flat=True):
            looks, highest = looks + 1, max(highest, total)
            assert total <= CAP
        if looks % 50 == 0:
            make_half_of_the_reservations_expire()
        if time.monotonic() > kill_at and len(pids) > 4:
            os.kill(pids.pop(), signal.SIGKILL)
            kill_at += SECONDS / 16
    counts = [json.loads(line) for line in process.stdout]
    process.stdout.close()
    assert process.returncode == 0
    wait_for(lambda: not busy(), what="the statements of the dead processes")
    assert len(counts) == 4
    assert sum(each["made"] for each in counts) > SECONDS
    assert highest > CAP / 2

    make_reservations_expire()
    expiry.expire(settle_seconds=0)
    budget = Budget.objects.get()
    assert budget.reserved == 0
    assert budget.spent <= CAP
    assert budget.spent == CostEntry.objects.aggregate(sum=Sum("usd"))["sum"]
    assert not Reservation.objects.filter(is_expired=False).exists()


def make_half_of_the_reservations_expire():
    """As if their leases were over. Some of their processes are alive, and correct what is counted."""
    sql(
        "UPDATE pgonly_reservation SET expires_at = clock_timestamp() - interval '1 s' WHERE id IN "
        "(SELECT id FROM pgonly_reservation WHERE NOT is_expired AND random() < 0.5 FOR UPDATE SKIP LOCKED)"
    )
    expiry.expire(settle_seconds=0)


def busy():
    return activity.pids("application_name LIKE 'pgonly limits%' AND state = 'active'")
