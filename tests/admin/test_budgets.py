"""Budgets in the admin."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from pgonly_django.models import Budget, CostEntry, Job, State
from tests.admin.conftest import act, make_job, refusals, said
from tests.admin.jobs.test_cells import cells
from tests.admin.test_costs import sums_in

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/pgonly_django/budget/"
FORM = {"name": "project:7", "usd": "5", "per": "", "timezone": "UTC"}


def make(name="project:7", usd=5, **facts):
    return Budget.objects.create(name=name, usd=usd, **facts)


def page_of(budget):
    return f"{LIST}{budget.pk}/change/"


def button(budget, verb):
    return f"{LIST}{budget.pk}/operate/{verb}/"


def hold(budget, count=1):
    return [make_job(State.HELD, held_by=f"budget:{budget.name}") for _ in range(count)]


def test_the_list_says_what_is_spent_reserved_and_held(admin_client):
    period = {"per": "month", "timezone": "Asia/Shanghai", "period_start": timezone.now()}
    budget = make(spent="3.2", reserved="0.1", **period)
    untouched = make("untouched", "0.4")
    hold(budget, 3)
    response = admin_client.get(LIST)
    assert "Open" in cells(response, "state_badge")[0]
    assert "per month, Asia/Shanghai" in cells(response, "name")[0]
    assert "for all time" in cells(response, "name")[1]
    assert 'name="usd" value="0.4"' in admin_client.get(page_of(untouched)).text
    assert 'name="usd" value="7.50"' in admin_client.get(f"{LIST}add/?usd=7.50").text
    assert "$3.20 of $5.00" in cells(response, "spent")[0]
    assert (cells(response, "reserved")[0], cells(response, "reserved")[1]) == ("$0.10", "-")
    assert "state__exact=held&amp;held_by=budget%3Aproject%3A7" in cells(response, "held")[0]
    assert cells(response, "held")[1] == "-"


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("facts", "badge"),
    [
        ({"spent": 1}, "Open"),
        ({"spent": 4, "reserved": "0.6"}, "Nearly used up"),
        ({"spent": 7}, "Used up"),
        ({"usd": 0}, "Used up"),
        ({"spent": 5, "per": "day", "period_start": timezone.now() - timedelta(days=3)}, "Open"),
    ],
)
def test_the_badge_says_how_much_is_left(admin_client, facts, badge):
    budget = make(**facts)
    assert badge in cells(admin_client.get(LIST), "state_badge")[0]
    assert badge in admin_client.get(page_of(budget)).text


def test_the_link_to_held_jobs_shows_those_of_the_budget(admin_client):
    budget, other = make(), make("other")
    (job,) = hold(budget)
    hold(other)
    url = unescape(cells(admin_client.get(LIST), "held")[1].split('"')[1])
    response = admin_client.get(url)
    assert [row.pk for row in response.context["cl"].result_list] == [job.pk]


def test_raise_and_resume_sets_the_cap_and_lets_all_held_jobs_go_on(admin_client, admin_user):
    budget = make(spent=5)
    hold(budget, 2)
    response = admin_client.post(button(budget, "raise"), {"usd": "7.5"}, follow=True)
    assert said(response) == ["2 held jobs continue.", "Raise and resume: 1 budget."]
    assert Budget.objects.get().usd == Decimal("7.5")
    assert set(Job.objects.values_list("state", flat=True)) == {State.READY}
    assert LogEntry.objects.get(user=admin_user).change_message == "Raised; the jobs that it held continue."


@pytest.mark.parametrize(
    ("usd", "message"),
    [
        ("4", "is $5.00 already, not below $4.00"),
        ("", "must be an amount of US dollars"),
        ("-1", "must be an amount of US dollars"),
        ("nan", "must be an amount of US dollars"),
    ],
)
def test_a_cap_that_cannot_be_is_refused_with_a_message(admin_client, usd, message):
    budget = make()
    hold(budget)
    response = admin_client.post(button(budget, "raise"), {"usd": usd}, follow=True)
    assert message in said(response)[0]
    assert Budget.objects.get().usd == 5
    assert Job.objects.get().state == State.HELD


def test_resume_start_over_and_reset_are_buttons_and_actions(admin_client):
    budget = make(spent=5, declared={"usd": "3.000000"}, edited_at=timezone.now())
    hold(budget)
    admin_client.post(button(budget, "resume"))
    assert Job.objects.get().state == State.READY
    admin_client.post(button(budget, "start_over"))
    assert Budget.objects.get().spent == 0
    act(admin_client, "reset_budgets", [budget], LIST)
    assert (Budget.objects.get().usd, Budget.objects.get().edited_at) == (3, None)


def test_a_budget_is_made_and_edited_by_hand_and_survives_the_code(admin_client):
    response = admin_client.post(f"{LIST}add/", FORM, follow=True)
    assert response.status_code == 200
    Budget.objects.declare({"project:7": {"usd": "1.000000", "per": None, "timezone": "UTC"}})
    assert (Budget.objects.get().usd, Budget.objects.get().per) == (5, None)
    budget = Budget.objects.get()
    admin_client.post(page_of(budget), {**FORM, "usd": "6", "per": "day"})
    Budget.objects.declare({"project:7": {"usd": "2.000000", "per": None, "timezone": "UTC"}})
    assert (Budget.objects.get().usd, Budget.objects.get().per) == (6, "day")


def test_an_edit_changes_nothing_that_was_spent_meanwhile(admin_client):
    budget = make()
    Budget.objects.update(spent=3)
    admin_client.post(page_of(budget), {**FORM, "usd": "6"})
    assert (Budget.objects.get().spent, Budget.objects.get().usd) == (3, 6)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"name": "x" * 250}, "name", "1 to 240 characters"),
        ({"usd": "-1"}, "__all__", "must be an amount of US dollars"),
        ({"timezone": "Berlin"}, "__all__", "Did you mean 'Europe/Berlin'?"),
        ({"per": "fortnight"}, "per", "invalid_choice"),
    ],
)
def test_what_no_budget_can_have_is_refused_by_the_form(admin_client, changes, field, message):
    response = admin_client.post(f"{LIST}add/", {**FORM, **changes})
    form = response.context["adminform"].form
    assert [*form.errors] == [field]
    assert message in " ".join(refusals(form))
    assert not Budget.objects.exists()


def test_a_budgets_page_shows_its_held_jobs_its_calls_and_sums_by_model_and_task(admin_client):
    budget = make(spent=5, reserved="0.25")
    (job,) = hold(budget)
    for task, usd in (("shop.ask", "0.5"), ("shop.ask", "0.25"), ("shop.embed", "0.1")):
        of = {"task": task, "step": "s", "job_id": job.pk, "model": "large"}
        CostEntry.objects.create(budget=budget.name, usd=usd, tokens_in=9, **of)
    CostEntry.objects.create(budget="other", task="shop.other", usd=1)
    page = admin_client.get(page_of(budget)).text
    assert f"/admin/pgonly_django/job/{job.pk}/change/" in page
    assert "$0.25 reserved by calls under way" in page
    assert sums_in(page)[:2] == [
        ("large", "$0.85, 27 tokens in, 0 out", 3),
        ("ask", "$0.75, 18 tokens in, 0 out", 2),
    ]
    assert "shop.other" not in page
