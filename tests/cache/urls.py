from __future__ import annotations

import itertools
from typing import Any

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.urls import path

_times = itertools.count()
PAGE = """{% load cache %}{{ number }}|{% cache 60 fragment %}{{ number }}{% endcache %}"""


def page(request: HttpRequest) -> HttpResponse:
    engine = Engine(libraries={"cache": "django.templatetags.cache"})
    return HttpResponse(engine.from_string(PAGE).render(Context({"number": next(_times)})))


def key(request: HttpRequest) -> HttpResponse:
    cache.set("seen by", "the view")
    return HttpResponse(cache.get("key"))


def caches_and_raises(request: HttpRequest) -> Any:
    cache.set("from the view", "cached")
    raise ZeroDivisionError


urlpatterns = [path("page/", page), path("key/", key), path("caches-and-raises/", caches_and_raises)]
