from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.sites import site
from django.contrib.auth import get_user_model
from django.contrib.messages.storage.cookie import CookieStorage
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from model_bakery import baker

from pgonly_django.admin import sessions as users
from pgonly_django.database.connect import connect
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key, hash_user
from pgonly_django.sessions import SessionStore
from tests.admin.conftest import act, said
from tests.admin.jobs.test_plans import listed, rows_read
from tests.sessions.rows import PICKLE

pytestmark = pytest.mark.django_db

LIST = "/admin/pgonly_django/session/"


@pytest.fixture(autouse=True)
def _this_engine(settings):
    settings.SESSION_ENGINE = "pgonly_django.sessions"


def session_of(name: str, ip: str, **values) -> Session:
    user = baker.make(get_user_model(), username=name)
    session = SessionStore()
    session.update({"_auth_user_id": str(user.pk), "_auth_user_hash": "hash-of-" + name, **values})
    session.save()
    found = Session.objects.for_key(session.session_key)
    found.update(ip=ip, user_agent="Mozilla/5.0 (X11; Linux) Firefox/143.0")
    return found.get()


@pytest.fixture
def ada():
    return session_of("ada", "203.0.113.7", cart={"api_token": "s3cr3t", "items": [1]})


@pytest.fixture
def grace():
    return session_of("grace", "198.51.100.2")


@pytest.mark.parametrize("word", ["ada", "AD", "203.0.113.7", "203.0.", None])
def test_sessions_are_found_by_user_and_address(admin_client, ada, grace, word):
    text = admin_client.get(LIST, {"q": word or ada.user_id}).text
    assert "ada" in text
    assert "grace" not in text


@pytest.mark.django_db(transaction=True)
def test_a_search_that_takes_too_long_among_the_users_goes_on_without_their_names(monkeypatch, ada, grace):
    monkeypatch.setattr(users, "FIND_LIMIT", timedelta(milliseconds=50))
    request = RequestFactory().get(LIST)
    request._messages = CookieStorage(request)
    sessions = site.get_model_admin(Session)
    with connect("default", application_name="test") as other, other.transaction():
        other.execute("LOCK TABLE auth_user")
        found, _ = sessions.get_search_results(request, Session.objects.all(), "203.0.")
    assert [session.ip for session in found] == ["203.0.113.7"]
    assert ["took too long" in str(message) for message in request._messages] == [True]


def test_a_search_takes_five_words_at_most(admin_client, ada):
    response = admin_client.get(LIST, {"q": "a " * 6})
    assert "Search for five words at most." in response.text
    assert "203.0.113.7" not in response.text


def test_the_list_names_users_and_devices(admin_client, ada, grace):
    text = admin_client.get(LIST).text
    assert "Firefox 143 on Linux" in text
    assert "grace" in text


def test_the_list_can_be_narrowed_to_what_is_over(admin_client, ada, grace):
    Session.objects.filter(pk=grace.pk).update(expires_at="2020-01-01T00:00Z")
    assert "198.51.100.2" not in admin_client.get(LIST, {"state": "active"}).text
    assert "203.0.113.7" not in admin_client.get(LIST, {"state": "over"}).text


def test_the_list_begins_with_the_sessions_that_expire_last(admin_client, ada, grace):
    for last, later in ((ada, timedelta(seconds=1)), (grace, timedelta(hours=2))):
        Session.objects.filter(pk=last.pk).update(expires_at=grace.expires_at + later)
        assert admin_client.get(LIST).context["cl"].result_list[0] == last


@pytest.mark.parametrize("query", ["", "?state=active"])
@pytest.mark.parametrize("start", [0, 200])
def test_a_page_of_the_list_reads_the_sessions_of_a_few_hours(admin_user, query, start):
    with connection.cursor() as cursor:
        cursor.execute(A_WEEK_OF_SESSIONS)
        cursor.execute("ANALYZE pgonly_session")
    rows = listed(admin_user, query, Session).queryset
    plan = rows[start : start + 100].explain(analyze=True)
    assert "Index Scan Backward using pgonly_session_expires" in plan
    assert rows_read(plan) <= 600


SESSION_TABLE = connection.ops.quote_name(Session._meta.db_table)

# 120 expire in each hour.
A_WEEK_OF_SESSIONS = """
INSERT INTO pgonly_session (key_hash, data, last_seen_at, expires_at)
SELECT sha256(number::text::bytea), '{"a": "1"}', now(), now() + number * interval '30 seconds'
FROM generate_series(1, 20000) AS number
"""


def test_a_search_reads_the_sessions_once_and_not_hour_by_hour(admin_user, ada, grace):
    """20,000 are too few for PostgreSQL to choose that, so this looks at the order that it is asked for."""
    Session.objects.filter(pk=grace.pk).update(ip=ada.ip, expires_at=ada.expires_at + timedelta(seconds=1))
    rows = listed(admin_user, "?q=203.0.113", Session).queryset
    assert "expires_hour" not in str(rows.query).partition("ORDER BY")[2]
    assert [session.pk for session in rows] == [grace.pk, ada.pk]


def test_the_list_reads_nothing_of_what_is_inside_and_counts_to_a_limit(admin_client, ada):
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(LIST)
    sessions = [query["sql"] for query in queries if f"FROM {SESSION_TABLE}" in query["sql"]]
    (listing,) = [sql for sql in sessions if "ORDER BY" in sql]
    assert '"data",' not in listing.partition("FROM")[0]
    assert any("LIMIT 10001" in sql for sql in sessions)


def test_all_sessions_are_revoked_without_a_list_of_their_keys(admin_client, ada, grace):
    every = {"action": "delete_selected", "_selected_action": [ada.pk], "select_across": "1"}
    with CaptureQueriesContext(connection) as queries:
        admin_client.post(LIST, every)
    assert not any(grace.pk in query["sql"] for query in queries)
    assert not Session.objects.filter(pk__in=[ada.pk, grace.pk]).exists()


def test_a_session_whose_user_is_gone_is_still_listed(admin_client, ada):
    get_user_model().objects.filter(username="ada").delete()
    assert "203.0.113.7" in admin_client.get(LIST).text


def test_a_revocation_is_told_and_logged_once_for_all_its_sessions(admin_client, admin_user, ada, grace):
    assert said(act(admin_client, "delete_selected", [ada, grace], LIST)) == ["Revoke: 2 sessions."]
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_repr, entry.change_message) == (admin_user, "2 sessions", "Revoked.")
    assert "2 sessions" in admin_client.get("/admin/").text


def test_deleting_a_session_while_a_fallback_is_set_keeps_it_ended(admin_client, ada, settings):
    settings.PGONLY = {"SESSION_PREVIOUS_ENGINE": "django.contrib.sessions.backends.db"}
    admin_client.post(f"{LIST}{ada.pk}/delete/", {"post": "yes"})
    assert Session.objects.get(pk=ada.pk).data is None


@pytest.fixture(params=["session.SessionStorage", "fallback.FallbackStorage"])
def _message_storage(request, settings):
    settings.MESSAGE_STORAGE = f"django.contrib.messages.storage.{request.param}"


def own_session(browser) -> Session:
    return Session.objects.for_key(browser.cookies["sessionid"].value).get()


@pytest.mark.usefixtures("_message_storage")
@pytest.mark.parametrize("page", ["delete", "operate/revoke", "operate/revoke_user"])
def test_who_deletes_or_revokes_his_own_session_is_logged_out_and_in_the_log(admin_client, admin_user, page):
    own = own_session(admin_client)
    assert admin_client.post(f"{LIST}{own.pk}/{page}/", {"post": "yes"}).status_code == 302
    assert "/login/" in admin_client.get(LIST)["Location"]
    assert not Session.objects.filter(pk=own.pk).exists()
    assert LogEntry.objects.get().user == admin_user


@pytest.mark.usefixtures("_message_storage")
@pytest.mark.parametrize("fallback", ["", "django.contrib.sessions.backends.db"])
def test_revoking_ones_own_session_with_others_is_a_logout(admin_client, ada, grace, settings, fallback):
    settings.PGONLY = {"SESSION_PREVIOUS_ENGINE": fallback}
    own = own_session(admin_client)
    answer = admin_client.post(LIST, {"action": "delete_selected", "_selected_action": [ada.pk, own.pk]})
    assert answer.status_code == 302
    assert "/login/" in admin_client.get(LIST)["Location"]
    assert set(Session.objects.active().filter(pk__in=[ada.pk, grace.pk, own.pk])) == {grace}


def test_the_data_are_shown_with_their_secrets_masked_by_keys_that_can_be_set(admin_client, ada, settings):
    text = admin_client.get(f"{LIST}{ada.pk}/change/").text
    assert "&quot;items&quot;" in text
    assert "s3cr3t" not in text
    assert "hash-of-ada" not in text
    assert "••••••" in text
    settings.PGONLY = {"SESSION_MASKED_KEYS": ("cart",)}
    text = admin_client.get(f"{LIST}{ada.pk}/change/").text
    assert "&quot;items&quot;" not in text
    assert "hash-of-ada" in text


@dataclass
class Credentials:
    token: str


def test_of_an_object_only_the_type_is_shown(admin_client, settings):
    settings.SESSION_SERIALIZER = PICKLE
    odd = session_of(
        "bob", "192.0.2.1", login=Credentials("s3cr3t"), at=date(2026, 1, 2), sum=Decimal("1.50")
    )
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    browser = Client()
    browser.force_login(baker.make(get_user_model(), is_staff=True, is_superuser=True, is_active=True))
    text = browser.get(f"{LIST}{odd.pk}/change/").text
    assert "&lt;Credentials&gt;" in text
    assert "s3cr3t" not in text
    assert "2026-01-02" in text
    assert "1.50" in text


def test_without_the_permission_of_their_own_the_data_are_not_shown(client, person, ada):
    person("view_session")
    text = client.get(f"{LIST}{ada.pk}/change/").text
    assert "203.0.113.7" in text
    assert "&quot;items&quot;" not in text


@pytest.mark.parametrize("lookup", ["data", "data__cart__api_token__startswith", "data___auth_user_hash"])
def test_nobody_finds_out_what_is_inside_a_session_by_filtering(admin_client, ada, lookup):
    assert admin_client.get(LIST, {lookup: '"x'}).status_code == 400
    assert admin_client.get(LIST, {"last_seen_at__gte": "2020-01-01T00:00Z"}).status_code == 200


def test_the_page_of_a_session_shows_no_usable_cookie(admin_client, ada):
    cookie = admin_client.cookies["sessionid"].value
    own = Session.objects.for_key(cookie).get()
    text = admin_client.get(f"{LIST}{own.pk}/change/").text
    assert cookie not in text
    assert own.pk == hash_key(cookie).hex()


def test_a_button_of_its_page_revokes_a_session_and_leads_back_to_the_list(
    admin_client, admin_user, ada, grace
):
    assert "pgonly-button-revoke" in admin_client.get(f"{LIST}{ada.pk}/change/").text
    answer = admin_client.post(f"{LIST}{ada.pk}/operate/revoke/", follow=True)
    assert answer.redirect_chain == [(LIST, 302)]
    assert list(Session.objects.filter(user_id__in=[ada.user_id, grace.user_id])) == [grace]
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id, entry.change_message) == (admin_user, ada.pk, "Revoked.")


@pytest.mark.parametrize("fallback", ["", "django.contrib.sessions.backends.db"])
def test_all_sessions_of_a_user_are_revoked_on_the_page_of_one(admin_client, ada, grace, settings, fallback):
    settings.PGONLY = {"SESSION_PREVIOUS_ENGINE": fallback}
    other = SessionStore()
    other.update({"_auth_user_id": ada.user_id})
    other.save()
    admin_client.post(f"{LIST}{ada.pk}/operate/revoke_user/")
    assert not Session.objects.active().filter(user_id=ada.user_id).exists()
    assert Session.objects.active().filter(pk=grace.pk).exists()
    assert LogEntry.objects.get().change_message == "Revoked, with all sessions of its user."
    kept_out = Session.objects.filter(key_hash=hash_user(ada.user_id).hex())
    assert kept_out.exists() == bool(fallback)


def test_the_session_of_a_visitor_has_no_button_for_its_user(admin_client, ada):
    Session.objects.filter(pk=ada.pk).update(user_id=None)
    page = admin_client.get(f"{LIST}{ada.pk}/change/").text
    assert "pgonly-button-revoke_user" not in page
    assert "pgonly-button-revoke" in page
