"""What the tests see of a budget, and rows in the past."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from decimal import Decimal

from django.utils import timezone

from pgonly_django.limits.renewal import renewal
from pgonly_django.models import Budget, CostEntry, Reservation
from tests import activity


def state(name="p"):
    """(spent, reserved) of the budget."""
    return Budget.objects.values_list("spent", "reserved").get(name=name)


def costs(**only):
    """The amounts, the oldest first."""
    return list(CostEntry.objects.filter(**only).order_by("id").values_list("usd", flat=True))


def money(*amounts):
    return tuple(Decimal(str(amount)) for amount in amounts)


def make_reservations_expire():
    """As if their processes had died a while ago."""
    renewal.forget()
    Reservation.objects.filter(is_expired=False).update(expires_at=timezone.now() - timedelta(minutes=1))


def end_period(name="p"):
    """As if the budget had been used in an earlier period only."""
    Budget.objects.filter(name=name).update(period_start=timezone.now() - timedelta(days=400))


@contextlib.contextmanager
def no_connections():
    """The connections of limiters and budgets are ended, and no new ones are allowed. All others stay."""
    with activity.no_more_connections():
        activity.end("application_name LIKE 'pgonly limits%'")
        yield
