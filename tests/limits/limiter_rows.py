"""What the tests see of a limiter."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from pgonly_django.models import Limiter, LimiterSlot, LimiterWaiter
from tests import activity


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
