"""What the tests see of limiters and budgets, and rows in the past."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from pgonly_django import budget, limiter
from pgonly_django.exceptions import BudgetExceededError, LimiterTimeoutError
from pgonly_django.limits.renewal import renewal
from pgonly_django.models import Budget, CostEntry, Limiter, LimiterSlot, LimiterWaiter, Reservation
from tests import activity


def enter(name="deepseek", timeout=0, **options):
    """And leave."""
    with limiter(name, timeout=timeout, **options):
        pass


def assert_refuses(name="deepseek", timeout=0, **options):
    with pytest.raises(LimiterTimeoutError):
        enter(name, timeout, **options)


def spend(reserved, *cap, name="p", cost=None, **period):
    """One call, which costs what was reserved for it, or `cost`."""
    with budget(name, *cap, **period).reserve(reserved) as reservation:
        if cost is not None:
            reservation.settle(cost)


def assert_does_not_fit(reserved, *cap, **period):
    with pytest.raises(BudgetExceededError) as caught:
        spend(reserved, *cap, **period)
    return caught.value


def held(name="deepseek"):
    return LimiterSlot.objects.filter(limiter=name, holder__isnull=False).count()


def waiting(name="deepseek"):
    return LimiterWaiter.objects.filter(limiter=name).count()


def buckets(name="deepseek"):
    return Limiter.objects.values_list("requests", "tokens").get(name=name)


def pids_of_limits(condition="true"):
    """The server's processes for the connections of this database's limiters and budgets."""
    return activity.pids(f"application_name = 'pgonly limits' AND {condition}")


def make_holders_die(name="deepseek"):
    """As if their processes had been killed a lease ago."""
    LimiterSlot.objects.filter(limiter=name, holder__isnull=False).update(
        expires_at=timezone.now() - timedelta(seconds=1)
    )


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
