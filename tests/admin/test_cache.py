from __future__ import annotations

import datetime as dt
import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.messages import get_messages
from django.core.cache import caches
from django.db import connection
from django.urls import reverse

from pgonly_django.admin.base import DELETED_AT_ONCE
from pgonly_django.models import CacheEntry
from pgonly_django.monitoring.storage import CacheFigures
from tests.elsewhere import missing

ENTRIES, DURABLE_ENTRIES = "/admin/pgonly_django/cacheentry/", "/admin/pgonly_django/durablecacheentry/"
NUMBERS = "admin:pgonly_django_cacheentry_numbers"
CLEAR = "admin:pgonly_django_cacheentry_clear"
CLEAR_DURABLE = "admin:pgonly_django_durablecacheentry_clear"


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled in the admin",)


@pytest.fixture(autouse=True)
def two_caches(settings, db):
    backend = "pgonly_django.cache.PostgresCache"
    settings.CACHES = {
        "durable": {"BACKEND": backend, "LOCATION": "kept", "OPTIONS": {"DURABLE": True}},
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
    page = admin_client.get(ENTRIES).text
    for text in ("p:1:user:7", "pickle", "\xa0min", "project:7", "p:1:count", "integer", "never"):
        assert text in page


@pytest.mark.parametrize("term", ["user:1", "p:1:user:1", "pages:p:1:user:1"])
def test_search_is_by_the_beginning_of_the_key(admin_client, term):
    caches["default"].set_many({"user:1": 1, "user:12": 1, "user:2": 1, "a user:1": 1})
    page = admin_client.get(ENTRIES, {"q": term}).text
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
        pages[entry.name.rpartition(":")[2]] = admin_client.get(url).text
    assert "&lt;b&gt;Überblick" in pages["answer"]
    assert "12345" in pages["number"]
    assert "Not shown: only numbers" in pages["pickled"]


def test_filters_by_cache_and_state(admin_client):
    caches["default"].set("old", 1)
    CacheEntry.objects.update(expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    caches["json"].set("new", 1)
    for query, shown, hidden in (
        ({"cache": "answers"}, "1:new<", "1:old<"),
        ({"state": "expired"}, "1:old<", "1:new<"),
        ({"state": "live"}, "1:new<", "1:old<"),
    ):
        page = admin_client.get(ENTRIES, query).text
        assert shown in page
        assert hidden not in page
    assert "0 cache entries" in admin_client.get(ENTRIES, {"state": "computing"}).text


def test_everything_at_once_takes_as_many_as_the_page_that_asks_can_post(admin_client):
    caches["default"].set_many(dict.fromkeys(map(str, range(DELETED_AT_ONCE + 1)), 1))
    data = {"action": "delete_selected", "_selected_action": ["x"], "select_across": "1"}
    assert admin_client.post(ENTRIES, data).text.count('name="_selected_action"') == DELETED_AT_ONCE
    admin_client.post(ENTRIES, {**data, "post": "yes"})
    assert CacheEntry.objects.count() == 1


def test_numbers_and_clearing_one_cache_asks_first(admin_client, admin_user):
    caches["default"].set_many({"a": 1, "b": 1})
    caches["json"].set("c", 1)
    page = admin_client.get(reverse(NUMBERS)).text
    assert "answers" in page
    assert "after ~" not in page  # nothing is estimated
    on_a_phone = re.findall('<td data-label="(.*?)"', page)
    assert on_a_phone == ["Location", "Entries", "Size", "Table on disk", "Hit rate"] * 3
    url = reverse("admin:pgonly_django_cacheentry_clear", args=["default"])
    assert "will be deleted" in admin_client.get(url).text
    assert CacheEntry.objects.count() == 3
    assert admin_client.post(url).status_code == 302
    assert [entry.name for entry in CacheEntry.objects.all()] == [":1:c"]
    logged = LogEntry.objects.get()
    said = (logged.user, logged.object_repr, logged.change_message)
    assert said == (admin_user, "the cache 'default'", "Cleared.")
    assert admin_client.post(url.replace("default", "unknown")).status_code == 404


def test_what_an_estimate_is_stands_below_one(admin_client, monkeypatch):
    figures = CacheFigures("default", "default", "answers", "pgonly_cache", None, None, is_estimate=True)
    monkeypatch.setattr("pgonly_django.admin.cache_entries.caches", lambda _limit: [figures])
    assert "A number after ~ is" in admin_client.get(reverse(NUMBERS)).text


def test_who_may_only_look_may_not_clear(client, person):
    person("view_cacheentry")
    page = client.get(reverse(NUMBERS)).text
    assert "pgonly-button-clear" not in page
    assert client.post(reverse(CLEAR, args=["default"])).status_code == 403


def test_a_table_that_a_person_may_not_see_has_no_numbers_for_them(client, person):
    person("view_durablecacheentry")
    page = client.get(reverse("admin:pgonly_django_durablecacheentry_numbers")).text
    locations = re.findall('<td data-label="Location">(.*?)</td>', page)
    assert "kept" in locations
    assert "pages" not in locations
    assert client.get(reverse(NUMBERS)).status_code == 403


def test_a_cache_is_cleared_only_by_who_may_delete_in_its_own_table(client, person):
    person("view_cacheentry", "delete_cacheentry", "view_durablecacheentry")
    caches["durable"].set("key", 1)
    page = client.get(reverse(NUMBERS)).text
    assert "kept" in page
    assert page.count("pgonly-button-clear") == 2
    assert client.post(reverse(CLEAR, args=["durable"])).status_code == 404
    assert client.post(reverse(CLEAR_DURABLE, args=["durable"])).status_code == 403
    assert caches["durable"].get("key") == 1


def test_the_numbers_lead_to_the_view_of_each_caches_own_table(admin_client):
    caches["durable"].set("key", 1)
    page = admin_client.get(reverse(NUMBERS)).text
    expected = [reverse(CLEAR_DURABLE, args=["durable"]), reverse(CLEAR, args=["default"])]
    assert re.findall('pgonly-button-clear" href="(.*?)"', page)[:2] == expected
    admin_client.post(expected[0])
    assert caches["durable"].get("key") is None


def test_before_the_first_thousand_reads_there_is_no_hit_rate_yet(admin_client):
    caches["default"].get("missing")
    page = admin_client.get(reverse(NUMBERS)).text
    assert page.count(">none yet</td>") == 3
    assert "after every 1,000 reads" in page


def test_a_clear_that_fails_is_not_called_a_success(admin_client):
    caches["default"].set("key", 1)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE pgonly_cache RENAME COLUMN expires_at TO gone")
    answer = admin_client.post(reverse(CLEAR, args=["default"]))
    told = [str(message) for message in get_messages(answer.wsgi_request)]
    assert len(told) == 1
    assert "was not cleared" in told[0]


@pytest.mark.parametrize("query", ["state=unknown", "cache=unknown"])
def test_a_filter_nobody_offers_shows_all_and_does_nothing(admin_client, query):
    caches["default"].set("key", 1)
    page = admin_client.get(f"{ENTRIES}?{query}", follow=True).text
    assert "1:key<" in page
    assert CacheEntry.objects.count() == 1


@pytest.mark.parametrize("query", ["value__contains=a", "key__contains=a", "tags=a"])
def test_only_the_filters_that_are_shown_can_be_asked_for(admin_client, query):
    assert admin_client.get(f"{ENTRIES}?{query}").status_code == 400


def test_the_numbers_name_a_cache_whose_database_refuses(transactional_db, admin_client):
    caches["default"].set("key", 1)
    with connection.cursor() as cursor, missing(cursor.execute, "pgonly_cache_durable"):
        page = admin_client.get(reverse(NUMBERS)).text
    assert "No numbers: relation" in page
    assert re.search(r">pages</td>\s*<td[^>]*>1( of [\d,]+)?</td>", page)


@pytest.mark.parametrize(
    ("entries", "page", "above"),
    [(ENTRIES, "numbers/", []), (DURABLE_ENTRIES, "clear/durable/", [f"{DURABLE_ENTRIES}numbers/"])],
)
def test_the_way_back_to_the_entries_is_at_the_top(admin_client, entries, page, above):
    html = admin_client.get(entries + page).text
    breadcrumbs = re.search(r'<ol class="breadcrumbs.*?</ol>', html, re.DOTALL)[0]
    assert re.findall('href="(.*?)"', breadcrumbs) == ["/admin/", "/admin/pgonly_django/", entries, *above]
    assert "pgonly_django/admin.css" in html


def test_the_numbers_say_how_much_of_its_bound_a_cache_uses(admin_client, settings):
    settings.CACHES["default"]["OPTIONS"] = {"MAX_ENTRIES": 500, "MAX_BYTES": 1_000_000}
    caches["default"].set("key", 1)
    page = admin_client.get(reverse(NUMBERS)).text
    assert "1 of 500" in page
    assert "of 976.6" in page
    assert '<progress class="pgonly-progress"' in page
