from __future__ import annotations

import datetime as dt

import pytest
from django.contrib.admin.utils import quote
from django.core.cache import caches
from django.urls import reverse

from pgonly_django.models import CacheEntry

LIST = "admin:pgonly_django_cacheentry_changelist"
NUMBERS = "admin:pgonly_django_cacheentry_numbers"


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled in the admin",)


@pytest.fixture(autouse=True)
def two_caches(settings, db):
    backend = "pgonly_django.cache.PostgresCache"
    settings.CACHES = {
        "default": {"BACKEND": backend, "LOCATION": "pages", "KEY_PREFIX": "p"},
        "json": {
            "BACKEND": backend,
            "LOCATION": "answers",
            "OPTIONS": {"SERIALIZER": "json", "COMPRESSOR": "zlib"},
        },
    }


def test_the_list_shows_keys_types_sizes_expiry_and_tags(admin_client):
    caches["default"].set("user:7", Bomb(), 3600, tags=["project:7"])
    caches["default"].set("count", 41, None)
    page = admin_client.get(reverse(LIST)).content.decode()
    for text in ("p:1:user:7", "pickle", "minutes", "project:7", "p:1:count", "integer", "never"):
        assert text in page


@pytest.mark.parametrize("term", ["user:1", "p:1:user:1", "pages:p:1:user:1"])
def test_search_is_by_the_beginning_of_the_key(admin_client, term):
    caches["default"].set_many({"user:1": 1, "user:12": 1, "user:2": 1, "a user:1": 1})
    page = admin_client.get(reverse(LIST), {"q": term}).content.decode()
    assert "p:1:user:1<" in page
    assert "p:1:user:12<" in page
    assert "user:2" not in page
    assert "a user" not in page


def test_json_and_numbers_are_shown_and_pickles_never_opened(admin_client):
    caches["json"].set("answer", {"title": "<b>Überblick</b>" * 100})
    caches["json"].set("number", 12345)
    caches["default"].set("pickled", Bomb())
    pages = {}
    for entry in CacheEntry.objects.all():
        url = reverse("admin:pgonly_django_cacheentry_change", args=[quote(entry.pk)])
        pages[entry.name.rpartition(":")[2]] = admin_client.get(url).content.decode()
    assert "&lt;b&gt;Überblick" in pages["answer"]
    assert "12345" in pages["number"]
    assert "Not shown." in pages["pickled"]


def test_filters_by_cache_and_state(admin_client):
    caches["default"].set("old", 1)
    CacheEntry.objects.update(expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    caches["json"].set("new", 1)
    for query, shown, hidden in (
        ({"cache": "answers"}, "1:new<", "1:old<"),
        ({"state": "expired"}, "1:old<", "1:new<"),
        ({"state": "live"}, "1:new<", "1:old<"),
    ):
        page = admin_client.get(reverse(LIST), query).content.decode()
        assert shown in page
        assert hidden not in page
    assert "0 cache entries" in admin_client.get(reverse(LIST), {"state": "computing"}).content.decode()


def test_deleting_asks_first(admin_client):
    caches["default"].set("key", 1)
    data = {"action": "delete_selected", "_selected_action": [CacheEntry.objects.get().pk]}
    assert "Are you sure" in admin_client.post(reverse(LIST), data).content.decode()
    assert CacheEntry.objects.count() == 1
    admin_client.post(reverse(LIST), {**data, "post": "yes"})
    assert CacheEntry.objects.count() == 0


def test_numbers_and_clearing_one_cache_asks_first(admin_client):
    caches["default"].set_many({"a": 1, "b": 1})
    caches["json"].set("c", 1)
    assert "answers" in admin_client.get(reverse(NUMBERS)).content.decode()
    url = reverse("admin:pgonly_django_cacheentry_clear", args=["default"])
    assert "will be deleted" in admin_client.get(url).content.decode()
    assert CacheEntry.objects.count() == 3
    assert admin_client.post(url).status_code == 302
    assert [entry.name for entry in CacheEntry.objects.all()] == [":1:c"]
    assert admin_client.post(url.replace("default", "unknown")).status_code == 404


def test_who_may_only_look_may_not_clear(client, django_user_model):
    from django.contrib.auth.models import Permission

    user = django_user_model.objects.create_user("reader", password="x", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_cacheentry"))
    client.force_login(user)
    page = client.get(reverse(NUMBERS)).content.decode()
    assert "deletelink" not in page
    assert client.post(reverse("admin:pgonly_django_cacheentry_clear", args=["default"])).status_code == 403
