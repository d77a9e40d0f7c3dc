"""The views of the servers that the tests start: an answer from the cache, or computed where it has none."""

from __future__ import annotations

import os
from contextlib import suppress

from django.core.cache import cache
from django.http import HttpRequest, JsonResponse
from django.urls import path

from pgonly_django.exceptions import CacheUnavailableError


def answer(request: HttpRequest, key: str) -> JsonResponse:
    if value := cache.get(key):
        return told(value, hit=True)
    value = compute(key)
    with suppress(CacheUnavailableError):
        cache.set(key, value)
    return told(value, hit=False)


async def async_answer(request: HttpRequest, key: str) -> JsonResponse:
    if value := await cache.aget(key):
        return told(value, hit=True)
    value = compute(key)
    with suppress(CacheUnavailableError):
        await cache.aset(key, value)
    return told(value, hit=False)


def compute(key: str) -> str:
    return f"the answer to {key}"


def told(value: str, *, hit: bool) -> JsonResponse:
    return JsonResponse({"value": value, "hit": hit, "pid": os.getpid()})


urlpatterns = [path("sync/<key>/", answer), path("async/<key>/", async_answer)]
