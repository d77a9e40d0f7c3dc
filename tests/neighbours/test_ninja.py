"""Django Ninja: its throttles over our cache, and ours, in sync and async operations."""

from __future__ import annotations

import asyncio

import pytest
from django.contrib.auth.models import User
from django.test import AsyncClient, override_settings
from django.urls import path
from ninja import NinjaAPI

from pgonly_django.throttling.ninja import (
    AnonRateThrottle,
    AuthRateThrottle,
)
from tests.jobs import add
from tests.neighbours.throttles import (
    documented,
    request,
)

pytestmark = pytest.mark.slow

LIMIT = 5
ANN = User(pk=1, username="ann")


api = NinjaAPI(urls_namespace="neighbours")


@api.get("/enqueue", throttle=[AnonRateThrottle("5/5m")])
def enqueue(request):
    return {"id": str(add.enqueue(1).id)}


@api.get("/wait", throttle=AuthRateThrottle("2/h"))
async def enqueue_async(request):
    return {"id": str((await add.aenqueue(1)).id)}


urlpatterns = [path("", api.urls)]


@override_settings(ROOT_URLCONF=__name__)
def test_a_refused_request_is_told_when_to_come_again(transactional_db, client):
    answers = [client.get("/enqueue") for _ in range(LIMIT + 1)]
    assert [answer.status_code for answer in answers] == [200] * LIMIT + [429]
    assert 298 <= int(answers[-1]["Retry-After"]) <= 300
    assert client.get("/enqueue", REMOTE_ADDR="192.0.2.9").status_code == 200


@override_settings(ROOT_URLCONF=__name__)
def test_an_async_operation_is_throttled_too(transactional_db):
    async def ask():
        return [await AsyncClient().get("/wait") for _ in range(3)]

    assert [answer.status_code for answer in asyncio.run(ask())] == [200, 200, 429]


def test_the_page_shows_throttles_that_work(transactional_db):
    throttles = documented("ninja")["api"].throttle
    assert [throttles[0].allow_request(guest) for guest in [request()] * 11] == [True] * 10 + [False]
