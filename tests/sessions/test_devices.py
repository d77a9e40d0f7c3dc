from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone
from model_bakery import baker

from pgonly_django.models import Session
from pgonly_django.models.session import hash_key, user_id_of
from pgonly_django.sessions import devices
from pgonly_django.sessions.checks import DJANGOS_MIDDLEWARE
from pgonly_django.sessions.devices import device_name, page_of_devices, place_of
from tests.contract import django_source
from tests.sessions.urls import urlpatterns
from tests.sql import sql

pytestmark = pytest.mark.django_db

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
AGENTS = {
    CHROME + "Safari/537.36": "Chrome 140 on Windows",
    CHROME + "Safari/537.36 Edg/140.0.0.0": "Edge 140 on Windows",
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0": "Firefox 143 on Linux",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.5 Safari/605.1.15": "Safari 18 on macOS",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.5 Mobile/15E148 Safari/604.1": "Safari 18 on iPhone",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile "
    "Safari/537.36": "Chrome 140 on Android",
    "curl/8.14.1": "curl",
    "": "Unknown device",
}


@pytest.mark.parametrize("agent", AGENTS)
def test_a_device_is_called_what_its_owner_calls_it(agent):
    assert device_name(agent) == AGENTS[agent]


def test_without_geoip_there_is_no_place():
    assert place_of("203.0.113.7") == ""


@pytest.fixture(autouse=True)
def _our_middleware(settings):
    settings.MIDDLEWARE = ["pgonly_django.middleware.SessionMiddleware", *settings.MIDDLEWARE[1:]]


@pytest.fixture
def ada():
    return baker.make(get_user_model(), username="ada")


def browser_of(user, agent: str) -> Client:
    browser = Client(headers={"user-agent": agent})
    browser.force_login(user)
    browser.get("/whoami/")
    Session.objects.for_key(key_of(browser)).update(user_agent=agent, ip="203.0.113.7")
    return browser


def key_of(browser: Client) -> str:
    return browser.cookies["sessionid"].value


def sign_out(browser: Client, other: Client):
    return browser.post(f"/devices/{hash_key(key_of(other)).hex()}/sign-out/")


def test_the_page_shows_ones_own_devices_and_says_which_is_this(ada):
    laptop = browser_of(ada, "Mozilla/5.0 (X11; Linux x86_64) Firefox/143.0")
    browser_of(ada, "Mozilla/5.0 (iPhone) Version/18.5 Mobile/1 Safari/604.1")
    browser_of(baker.make(get_user_model()), "curl/8.0")
    page = laptop.get("/devices/")
    text = page.content.decode()
    assert text.index("Firefox 143 on Linux") < text.index("This device") < text.index("Safari 18 on iPhone")
    assert "203.0.113.7" in text
    assert "curl" not in text
    assert "no-store" in page["Cache-Control"]


def test_a_device_used_within_the_last_minute_was_active_just_now(ada):
    laptop, _ = browser_of(ada, "a/1"), browser_of(ada, "b/1")
    assert "active just now" in laptop.get("/devices/").content.decode()
    Session.objects.update(last_seen_at=timezone.now() - timedelta(minutes=5, seconds=30))
    text = laptop.get("/devices/").content.decode()
    assert "active 5\xa0minutes ago" in text
    assert "just now" not in text


def test_while_debugging_the_page_says_that_djangos_middleware_notes_no_devices(ada, settings):
    hint = "pgonly_django.middleware.SessionMiddleware"
    settings.DEBUG = True
    assert hint not in browser_of(ada, CHROME).get("/devices/").content.decode()
    settings.MIDDLEWARE = [DJANGOS_MIDDLEWARE, *settings.MIDDLEWARE[1:]]
    browser = browser_of(ada, CHROME)
    assert hint in browser.get("/devices/").content.decode()
    settings.DEBUG = False
    assert hint not in browser.get("/devices/").content.decode()


def test_the_page_works_under_a_strict_content_security_policy(ada):
    text = browser_of(ada, "curl/8.0").get("/devices/").content.decode()
    assert "<script" not in text
    assert "<style" not in text
    assert " style=" not in text
    assert " on" not in "".join(part.partition(">")[0] for part in text.split("<button")[1:])


def test_the_page_shows_no_usable_cookie(ada):
    laptop, phone = browser_of(ada, "a/1"), browser_of(ada, "b/1")
    text = laptop.get("/devices/").content.decode()
    assert key_of(laptop) not in text
    assert key_of(phone) not in text


@pytest.mark.parametrize(
    ("sign", "left"),
    [
        (sign_out, [b"ada", b"", b"ada"]),
        (lambda laptop, phone: laptop.post("/devices/sign-out-others/"), [b"ada", b"", b""]),
        (lambda laptop, phone: sign_out(laptop, laptop), [b"", b"ada", b"ada"]),
    ],
    ids=["one", "all others", "this one"],
)
def test_devices_are_signed_out(ada, sign, left):
    browsers = [browser_of(ada, "a/1") for _ in range(3)]
    assert sign(*browsers[:2])["Location"] == "/devices/"
    assert [browser.get("/whoami/").content for browser in browsers] == left


def test_nobody_signs_out_another_users_device(ada):
    grace = browser_of(baker.make(get_user_model(), username="grace"), "a/1")
    assert sign_out(browser_of(ada, "a/1"), grace).status_code == 404
    assert grace.get("/whoami/").content == b"grace"


@pytest.mark.parametrize("path", ["/devices/", "/devices/sign-out-others/"])
def test_a_visitor_is_sent_to_the_login(client, path, settings):
    answer = client.get(path) if path == "/devices/" else client.post(path)
    assert answer["Location"].startswith(settings.LOGIN_URL)


def test_signing_out_needs_a_post_and_a_token(ada):
    laptop, phone = browser_of(ada, "a/1"), browser_of(ada, "a/1")
    assert laptop.get(f"/devices/{hash_key(key_of(phone)).hex()}/sign-out/").status_code == 405
    text = laptop.get("/devices/").content.decode()
    assert text.count('name="csrfmiddlewaretoken"') == 3


def test_signing_out_needs_the_token_also_without_djangos_middleware(ada):
    laptop, phone = Client(enforce_csrf_checks=True), browser_of(ada, "a/1")
    laptop.force_login(ada)
    assert sign_out(laptop, phone).status_code == 403
    assert laptop.post("/devices/sign-out-others/").status_code == 403
    token = laptop.get("/devices/").text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    answer = laptop.post("/devices/sign-out-others/", {"csrfmiddlewaretoken": token})
    assert answer.status_code == 302
    assert phone.get("/whoami/").content == b""


def many_sessions(user, count: int) -> None:
    sql(MANY_SESSIONS, user_id_of(user), count)


MANY_SESSIONS = """
INSERT INTO pgonly_session (key_hash, data, user_id, last_seen_at, expires_at)
SELECT sha256(number::text::bytea), '{"a": "1"}', %s, now() + number * interval '1 second', now() + interval '1 day'
FROM generate_series(1, %s) AS number
"""


def test_many_devices_are_shown_page_by_page_this_one_first(ada, django_assert_num_queries):
    laptop = browser_of(ada, "Mozilla/5.0 (X11; Linux x86_64) Firefox/143.0")
    many_sessions(ada, 10_000)
    with django_assert_num_queries(4):  # this session, the user, the count, and a page
        first = laptop.get("/devices/").text
    assert first.count("</li>") == 25
    assert first.index("Firefox 143") < first.index("Unknown device")
    assert "Page 1 of 401" in first
    assert 'href="?page=2"' in first
    last = laptop.get("/devices/?page=401").text
    assert last.count("</li>") == 1
    assert "Firefox 143" not in last
    assert "Sign out all other devices" in last


def test_each_device_of_the_same_time_is_on_one_page(ada):
    sql(OF_FEW_TIMES, user_id_of(ada))
    pages = [page_of_devices(ada, None, number) for number in range(1, 13)]
    assert len({device.session.pk for page in pages for device in page}) == 300


OF_FEW_TIMES = """
INSERT INTO pgonly_session (key_hash, data, user_id, last_seen_at, expires_at)
SELECT sha256(number::text::bytea), '{}', %s, NULLIF(now() - number %% 4 * interval '1 day', now()),
    now() + interval '1 day'
FROM generate_series(1, 300) AS number
"""


@pytest.mark.parametrize("number", ["x", "-1", "0", "9" * 30, "\x00", "1.5", ""])
def test_a_page_that_does_not_exist_leads_to_the_first_or_the_last(ada, number):
    laptop = browser_of(ada, "a/1")
    many_sessions(ada, 30)
    assert "of 2" in laptop.get("/devices/", {"page": number}).text


def test_what_is_inside_the_sessions_is_not_read(ada):
    laptop = browser_of(ada, "a/1")
    with CaptureQueriesContext(connection) as queries:
        laptop.get("/devices/")
    (listing,) = [
        query["sql"] for query in queries if "ORDER BY" in query["sql"] and "pgonly_session" in query["sql"]
    ]
    assert '"data" IS NOT NULL' in listing
    assert '"data"' not in listing.partition("FROM")[0]


class BelowANamespace:
    urlpatterns = (path("account/", include((urlpatterns, "account"))),)


def test_the_page_may_lie_below_a_namespace(ada, settings):
    laptop, phone = browser_of(ada, "a/1"), browser_of(ada, "b/1")
    settings.ROOT_URLCONF = BelowANamespace
    text = laptop.get("/account/devices/").text
    assert f'action="/account/devices/{hash_key(key_of(phone)).hex()}/sign-out/"' in text
    assert laptop.post("/account/devices/sign-out-others/")["Location"] == "/account/devices/"


@pytest.fixture
def _geoip_as_set():
    devices._geoip.cache_clear()
    yield
    devices._geoip.cache_clear()


@pytest.mark.usefixtures("_geoip_as_set")
def test_a_missing_geoip_database_leaves_the_place_out(settings, tmp_path):
    settings.GEOIP_PATH = tmp_path
    assert place_of("2.125.160.216") == ""


@pytest.mark.usefixtures("_geoip_as_set")
def test_with_geoip_a_place_is_named_and_an_unknown_address_is_no_error(settings):
    pytest.importorskip("geoip2")
    settings.GEOIP_PATH = django_source.tests_folder() / "gis_tests" / "data" / "geoip2"
    settings.GEOIP_CITY = "GeoLite2-City-Test.mmdb"
    assert place_of("2.125.160.216") == "Boxford, United Kingdom"
    assert place_of("127.0.0.1") == ""
    assert place_of(None) == ""
