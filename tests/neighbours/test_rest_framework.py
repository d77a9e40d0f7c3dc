"""Django REST framework: its throttles over our cache, and ours."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.cache import cache, caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.urls import path
from rest_framework import throttling
from rest_framework.decorators import api_view, throttle_classes
from rest_framework.response import Response
from rest_framework.views import APIView

from pgonly_django.throttling.counted import check_throttles
from pgonly_django.throttling.rest_framework import (
    AnonRateThrottle,
    PostgresThrottle,
    ScopedRateThrottle,
    UserRateThrottle,
)
from tests.jobs import add
from tests.neighbours.throttles import (
    Slowly,
    admitted,
    admitted_in_processes,
    database_away,
    documented,
    request,
)

pytestmark = pytest.mark.slow

LIMIT = 5  # of the scopes anon and user, see projects/together.py
ANN = User(pk=1, username="ann")


@api_view()
@throttle_classes([AnonRateThrottle, UserRateThrottle])
def enqueue(request):
    return Response({"id": str(add.enqueue(1).id)})


class Upload(APIView):
    throttle_classes = (ScopedRateThrottle,)
    throttle_scope = "upload"

    def get(self, request):
        return Response({})


urlpatterns = [path("enqueue/", enqueue), path("upload/", Upload.as_view())]


def test_the_frameworks_own_throttle_lets_too_many_through(transactional_db):
    """Get, then set: it says so in its documentation. Any cache, ours too."""

    class Own(throttling.UserRateThrottle):
        cache = Slowly(cache)

    assert admitted(lambda: Own().allow_request(request(ANN), None)) > LIMIT


def test_several_processes_get_exactly_the_rate(transactional_db):
    assert admitted_in_processes(lambda: UserRateThrottle().allow_request(request(ANN), None)) == LIMIT


@override_settings(ROOT_URLCONF=__name__)
def test_a_refused_request_is_told_when_to_come_again(transactional_db, client):
    answers = [client.get("/enqueue/") for _ in range(LIMIT + 1)]
    assert [answer.status_code for answer in answers] == [200] * LIMIT + [429]
    assert 58 <= int(answers[-1]["Retry-After"]) <= 60
    assert "available in" in answers[-1].json()["detail"]
    assert client.get("/enqueue/", REMOTE_ADDR="192.0.2.9").status_code == 200


@override_settings(ROOT_URLCONF=__name__)
def test_a_view_has_the_rate_of_its_scope(transactional_db, client):
    answers = [client.get("/upload/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 3590 <= int(answers[-1]["Retry-After"]) <= 3600


def test_each_user_and_each_address_has_its_own(transactional_db):
    bea, guest, other = User(pk=2), request(AnonymousUser()), request(AnonymousUser(), "192.0.2.2")
    for who in (request(ANN), request(bea), guest, other):
        allowed = [UserRateThrottle().allow_request(who, None) for _ in range(LIMIT + 1)]
        assert allowed == [True] * LIMIT + [False]
    assert all(AnonRateThrottle().allow_request(request(ANN), None) for _ in range(LIMIT + 1))


def test_a_throttle_of_a_project_needs_a_key_and_a_rate_and_hears_of_refusals(transactional_db):
    heard = []

    class OfTheHost(PostgresThrottle):
        rate = "1/s"

        def get_cache_key(self, request, view):
            return request.META.get("REMOTE_ADDR")

        def throttle_failure(self):
            heard.append(self.key)
            return False

    throttle = OfTheHost()
    assert [throttle.allow_request(request(), None) for _ in range(2)] == [True, False]
    assert heard == ["192.0.2.1"]
    assert 0 < throttle.wait() <= 1


@pytest.mark.parametrize("opens", [True, False])
def test_without_a_database_the_option_decides(opens, transactional_db, any_database, caplog):
    with database_away() as away:

        class Throttle(UserRateThrottle):
            cache = away
            fail_open = opens

        throttle = Throttle()
        assert throttle.allow_request(request(ANN), None) is opens
        assert throttle.wait() == (0 if opens else 1)
    assert f"was {'let through' if opens else 'refused'} uncounted" in caplog.text


def test_another_cache_than_ours_is_refused_with_what_to_do(transactional_db):
    class Throttle(UserRateThrottle):
        cache = caches["local"]

    with pytest.raises(ImproperlyConfigured, match=r"Throttle.cache = caches\["):
        Throttle().allow_request(request(ANN), None)


class InAnotherCache(UserRateThrottle):
    cache = caches["local"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{__name__}.InAnotherCache", ["pgonly_django.E073"]),
        ("pgonly_django.throttling.rest_framework.UserRateThrottle", []),
        ("rest_framework.throttling.UserRateThrottle", []),
        ("no.such.Throttle", []),
    ],
)
def test_the_check_speaks_of_throttles_in_the_settings(name, expected, settings):
    settings.REST_FRAMEWORK = {"DEFAULT_THROTTLE_CLASSES": [name]}
    assert [each.id for each in check_throttles()] == expected


def test_the_page_shows_throttles_that_work(transactional_db):
    shown = documented("rest_framework")
    login, in_its_cache = shown["LoginThrottle"], shown["InItsCache"]
    assert [login().allow_request(request(), None) for _ in range(6)] == [True] * 5 + [False]
    assert [in_its_cache().allow_request(request(ANN), None) for _ in range(6)] == [True] * 5 + [False]
    assert len(caches["throttles"].keys("*throttle*")) == 1
