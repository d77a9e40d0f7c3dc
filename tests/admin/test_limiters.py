"""Limiters in the admin: what is in use and by whom, edits, cool-downs."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from pgonly_django.models import Limiter, LimiterSlot, LimiterWaiter
from tests.admin.jobs.test_cells import cells

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/pgonly_django/limiter/"
PAGE = f"{LIST}deepseek/change/"
LIMITS = {"concurrent": 5, "requests_per_minute": 60, "tokens_per_minute": 90000}


def make(name="deepseek", **changes):
    values = {"declared": LIMITS, **LIMITS, **changes}
    return Limiter.objects.create(name=name, **values)


def soon():
    return timezone.now() + timedelta(minutes=1)


def take(number=1, who="host, process 7, main", **changes):
    values = {"limiter": "deepseek", "holder": uuid4(), "taken_at": timezone.now(), "expires_at": soon()}
    return LimiterSlot.objects.create(number=number, who=who, **{**values, **changes})


def wait(who="job x"):
    return LimiterWaiter.objects.create(
        id=uuid4(), limiter="deepseek", who=who, tokens=900, expires_at=soon()
    )


def test_the_list_says_what_is_in_use_and_who_waits(admin_client):
    make()
    make("idle", concurrent=None, tokens_per_minute=None, declared=None)
    take()
    take(2)
    take(3, expires_at=timezone.now())
    wait()
    response = admin_client.get(LIST)
    assert "2 of 5" in cells(response, "in_use")[0]
    assert cells(response, "waiting") == ["1", "-"]
    assert "Others wait" in cells(response, "state_badge")[0]
    assert "Open" in cells(response, "state_badge")[1]
    assert "90,000" in cells(response, "tokens")[0]
    assert cells(response, "tokens")[1] == "no limit"
    assert "Not declared" in cells(response, "name")[1]


def test_the_list_says_for_how_long_an_overdrawn_bucket_is_closed(admin_client):
    make(tokens=-3000, refilled_at=timezone.now())
    assert "too many: closed for" in cells(admin_client.get(LIST), "tokens")[0]


def test_the_page_names_who_is_inside_and_who_waits_with_links_to_jobs(admin_client):
    make()
    job = uuid4()
    take(who=f"job {job} (tasks.screen)")
    wait("web-1, process 12, <main>")
    text = admin_client.get(PAGE).text
    assert f'href="/admin/pgonly_django/job/{job}/change/"' in text
    assert "web-1, process 12, &lt;main&gt;" in text


def test_an_edit_changes_the_limits_and_survives_declarations_until_it_is_reset(admin_client):
    make()
    form = {"concurrent": "3", "requests_per_minute": "60", "tokens_per_minute": ""}
    admin_client.post(PAGE, form)
    Limiter.objects.declare({"deepseek": {**LIMITS, "concurrent": 9}})
    row = Limiter.objects.get()
    assert (row.concurrent, row.requests_per_minute, row.tokens_per_minute) == (3, 60, None)
    assert "Edited" in cells(admin_client.get(LIST), "name")[0]
    admin_client.post(f"{LIST}deepseek/operate/reset/")
    assert Limiter.objects.get().concurrent == 9


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("concurrent", "0", "a whole number from 1 to 10,000"),
        ("concurrent", "10001", "a whole number from 1 to 10,000"),
        ("requests_per_minute", "0", "a number above 0"),
        ("tokens_per_minute", "-1", "a number above 0"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(admin_client, field, value, said):
    make()
    response = admin_client.post(PAGE, {"concurrent": "5", field: value})
    assert said in str(response.context["adminform"].form.errors[field])


def test_a_person_makes_a_limiter(admin_client):
    admin_client.post(f"{LIST}add/", {"name": "by hand", "concurrent": "2"})
    row = Limiter.objects.get()
    assert (row.name, row.concurrent, row.declared) == ("by hand", 2, None)


def test_a_cool_down_begins_and_ends_by_buttons_and_is_logged(admin_client):
    make()
    admin_client.post(f"{LIST}deepseek/operate/cool_down_15/")
    left = Limiter.objects.get().blocked_until - timezone.now()
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    assert "Cools down for 14 min" in cells(admin_client.get(LIST), "state_badge")[0]
    assert "operate/end_cool_down/" in admin_client.get(PAGE).text
    admin_client.post(f"{LIST}deepseek/operate/end_cool_down/")
    assert Limiter.objects.get().blocked_until is None
    assert [entry.change_message for entry in LogEntry.objects.order_by("id")] == [
        "Cool down for 15 min", "Cool-down ended.",
    ]  # fmt: skip
    assert "operate/end_cool_down/" not in admin_client.get(PAGE).text


def test_a_longer_cool_down_is_not_made_shorter_by_an_action_of_the_list(admin_client):
    make(), make("other")
    admin_client.post(f"{LIST}deepseek/operate/cool_down_15/")
    chosen = {"action": "cool_down_1_limiters", "_selected_action": ["deepseek", "other"]}
    admin_client.post(LIST, chosen)
    ends = dict(Limiter.objects.values_list("name", "blocked_until"))
    assert ends["deepseek"] - timezone.now() > timedelta(minutes=14)
    assert timedelta() < ends["other"] - timezone.now() <= timedelta(minutes=1)


def test_only_what_the_settings_do_not_declare_is_deleted_with_its_slots(admin_client, settings):
    make()
    take()
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": {"deepseek": {"concurrent": 5}}}
    assert admin_client.post(f"{LIST}deepseek/delete/", {"post": "yes"}).status_code == 403
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": {}}
    admin_client.post(f"{LIST}deepseek/delete/", {"post": "yes"})
    assert not Limiter.objects.exists()
    assert not LimiterSlot.objects.exists()
