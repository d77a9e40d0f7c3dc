"""django-axes, with its cache handler over our cache and with its database handler."""

from __future__ import annotations

import pytest
from axes.handlers.proxy import AxesProxyHandler
from axes.models import AccessAttempt
from axes.utils import reset
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client

from tests.neighbours.throttles import admitted

pytestmark = pytest.mark.slow

LIMIT = 3


@pytest.fixture(params=["cache", "database"])
def handler(request, settings, transactional_db):
    settings.AUTHENTICATION_BACKENDS = [
        "axes.backends.AxesStandaloneBackend",
        *settings.AUTHENTICATION_BACKENDS,
    ]
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "axes.middleware.AxesMiddleware"]
    settings.AXES_HANDLER = f"axes.handlers.{request.param}.Axes{request.param.title()}Handler"
    settings.AXES_ENABLED = True
    settings.AXES_FAILURE_LIMIT = LIMIT
    settings.AXES_COOLOFF_TIME = 1
    AxesProxyHandler.get_implementation(force=True)
    User.objects.create_superuser("ann", password="right")
    yield request.param
    AxesProxyHandler.implementation = None


def status(password):
    return Client().post("/admin/login/", {"username": "ann", "password": password}).status_code


def test_too_many_failures_lock_out_and_a_reset_lets_in_again(handler):
    assert [status("wrong") for _ in range(LIMIT)][-1] == 429
    assert status("right") == 429
    assert (len(cache.keys("axes-*")) > 0) == (handler == "cache")
    reset(username="ann", ip="127.0.0.1")
    assert status("right") == 302


def test_failures_at_the_same_time_lock_out(handler):
    admitted(lambda: status("wrong"), requests=LIMIT * 8)
    assert status("right") == 429
    assert (AccessAttempt.objects.count() > 0) == (handler == "database")
