"""The views of the session tests, and of the servers that they start."""

from __future__ import annotations

from django.contrib.auth import get_user_model, login, logout
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path


def whoami(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.user.get_username() if request.user.is_authenticated else "")


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    user, _ = get_user_model().objects.get_or_create(username=name)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse(name)


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("")


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError(f"This view fails for {request.user.get_username()}.")


def keys(request: HttpRequest) -> HttpResponse:
    return JsonResponse(dict(request.session.items()))


def set_slowly(request: HttpRequest, key: str) -> HttpResponse:
    """Loads, waits in the database so that others load too, and saves."""
    request.session[key] = key
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.1)")
    return HttpResponse(key)


async def set_async(request: HttpRequest, key: str) -> HttpResponse:
    await request.session.aset(key, key)
    return HttpResponse(key)


urlpatterns = [
    path("whoami/", whoami),
    path("log-in/<name>/", log_in),
    path("log-out/", log_out),
    path("fail/", fail),
    path("keys/", keys),
    path("set/<key>/", set_slowly),
    path("aset/<key>/", set_async),
    path("devices/", include("pgonly_django.sessions.urls")),
]
