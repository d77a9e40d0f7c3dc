"""Queues in the admin: what waits and runs, limits, pause and resume."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.utils import quote
from django.utils import timezone

from pgonly_django.models import JobStats, Limiter, Queue, QueueTokens
from tests.admin.conftest import act, refusals
from tests.admin.jobs.test_cells import cells
from tests.queue.rows import HOUR, MINUTE, ago, make, make_keyed, make_running, make_worker

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/pgonly_django/queue/"
PAGE = f"{LIST}ai/change/"
LIMITS = {"max_running": 5, "rate_count": None, "rate_seconds": None, "limiter": None}
FORM = {"max_running": "5", "rate_count": "", "rate_seconds": "", "limiter": ""}


def texts(response, name):
    """The text of one column, row by row."""
    return [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in cells(response, name)]


def declared(**limits):
    values = {**LIMITS, **limits}
    return Queue.objects.create(name="ai", declared=values, **values)


def test_the_list_says_what_waits_and_runs(admin_client):
    make_worker()
    declared()
    Queue.objects.named("default")
    make(queue="ai"), make_keyed("a", queue="ai"), make(queue="ai", crashes=2), make_running(queue="ai")
    response = admin_client.get(LIST)
    assert texts(response, "waiting") == ["3", "0"]
    assert texts(response, "running")[0].endswith("1 of 5")
    assert cells(response, "running")[1] == "0"
    assert all("Open" in cell for cell in cells(response, "state_badge"))


def test_large_counts_end_at_a_cap(admin_client, monkeypatch):
    declared()
    monkeypatch.setattr("pgonly_django.admin.queues.COUNTED_AT_MOST", 2)
    for _ in range(5):
        make(queue="ai")
    assert texts(admin_client.get(LIST), "waiting") == ["2+"]


def test_the_state_says_why_nothing_starts(admin_client):
    make_worker()
    declared(max_running=1)
    make(queue="ai"), make_running(queue="ai")
    assert "Full" in cells(admin_client.get(LIST), "state_badge")[0]
    Queue.objects.all().edit(max_running=None, rate_count=1, rate_seconds=3600.0)
    QueueTokens.objects.create(queue="ai", tokens=0, refilled_at=timezone.now())
    assert "Waits for its rate" in cells(admin_client.get(LIST), "state_badge")[0]
    Limiter.objects.create(name="deepseek", blocked_until=timezone.now() + HOUR)
    Queue.objects.all().edit(limiter="deepseek")
    assert "Cools down" in cells(admin_client.get(LIST), "state_badge")[0]
    Queue.objects.all().pause()
    assert "Paused" in cells(admin_client.get(LIST), "state_badge")[0]


OVERVIEW = "/admin/pgonly_django/"


def states_of(client):
    """Of the queue ai, as the list, its page and the overview show it."""
    page = re.search(r"<h1>ai (.*?)</h1>", client.get(PAGE).text, re.DOTALL)[1]
    row = re.search(r'data-key="ai">.*?</tr>', client.get(OVERVIEW).text, re.DOTALL)[0]
    state = re.search(r'data-label="State">(.*?)</td>', row)[1]
    return {
        re.sub(r"<[^>]*>", "", each).strip()
        for each in (cells(client.get(LIST), "state_badge")[0], page, state)
    }


@pytest.mark.parametrize(
    "worker", [None, {"queues": ["mail"]}, {"silent_for": HOUR}, {"drain_requested_at": timezone.now()}]
)
def test_a_queue_that_no_live_worker_serves_says_so_on_every_page(admin_client, worker):
    Queue.objects.named("ai")
    if worker:
        make_worker(**worker)
    assert states_of(admin_client) == {"No worker"}
    assert "pgonly-stopped" in cells(admin_client.get(LIST), "state_badge")[0]
    make(queue="ai")
    assert "pgonly-failed" in cells(admin_client.get(LIST), "state_badge")[0]
    make_worker(queues=["mail", "ai"])
    assert states_of(admin_client) == {"Open"}


def test_a_queue_without_a_row_says_that_it_has_no_worker(admin_client):
    make(queue="ai")
    html = admin_client.get(OVERVIEW).text
    assert "No worker" in re.search(r'data-key="ai">.*?</tr>', html, re.DOTALL)[0]
    make_worker()
    assert "Open" in re.search(r'data-key="ai">.*?</tr>', admin_client.get(OVERVIEW).text, re.DOTALL)[0]


def test_the_rate_is_said_in_words(admin_client):
    declared(rate_count=1200, rate_seconds=60.0)
    assert cells(admin_client.get(LIST), "rate") == ["At most 1,200 starts per min"]
    assert "At most 1,200 starts per min" in admin_client.get(PAGE).text


def text_of(response):
    return " ".join(re.sub(r"<[^>]+>", " ", response.text).split())


def test_the_page_names_the_workers_that_serve_it_and_how_busy_they_are(admin_client):
    Queue.objects.named("ai")
    assert "No live worker takes its jobs. manage.py runworker --queues ai" in text_of(admin_client.get(PAGE))
    own, of_all = make_worker(name="own", queues=["ai"], threads=4), make_worker(name="any", threads=2)
    make_worker(name="other", queues=["mail"]), make_worker(name="gone", silent_for=HOUR)
    make_running(own.pk, queue="ai")
    page = admin_client.get(PAGE)
    assert [each["row"].name for each in page.context["workers"]] == ["own", "any"]
    assert f'href="/admin/pgonly_django/worker/{of_all.pk}/change/"' in page.text
    assert "1 of 4" in text_of(page)


def test_the_page_leads_to_the_job_that_has_waited_longest(admin_client):
    Queue.objects.named("ai")
    make(queue="mail", ready_at=ago(3 * HOUR)), make(queue="ai")
    oldest = make(queue="ai", ready_at=ago(2 * HOUR))
    page = admin_client.get(PAGE)
    assert "Oldest job: 2 h" in text_of(page)
    assert f'<a href="/admin/pgonly_django/job/{oldest.pk}/change/">2\xa0h' in page.text


@pytest.mark.parametrize(("query", "runs"), [("", 7), ("?period=day", 70), ("?period=century", 7)])
def test_the_page_has_the_runs_and_the_times_of_this_queue_alone(admin_client, query, runs):
    Queue.objects.named("ai")
    for granularity, succeeded in (("minute", 7), ("hour", 70)):
        for queue in ("ai", "mail"):
            JobStats.objects.create(
                granularity=granularity, starts_at=ago(5 * MINUTE), queue=queue, task=f"tests.jobs.{queue}",
                succeeded=succeeded, waiting_times=[0] * 20 + [succeeded], run_times=[succeeded],
            )  # fmt: skip
    page = admin_client.get(f"{PAGE}{query}")
    assert f"<strong>{runs}</strong> succeeded" in page.text
    assert [row["figures"].task for row in page.context["times"]["rows"]] == ["tests.jobs.ai"]
    assert re.search(r"<strong>≈\s\d{3}\sms</strong> p50", page.text)
    assert "queue=ai" in re.search(r'<a href="([^"]*)" tabindex="-1"', page.text)[1]


def test_the_page_says_that_charts_and_times_took_too_long(admin_client, monkeypatch):
    monkeypatch.setattr("pgonly_django.admin.queues.HISTORY_LIMIT", timedelta(seconds=1))
    Queue.objects.named("ai")
    assert "took too long" not in admin_client.get(PAGE).text
    monkeypatch.setattr("pgonly_django.monitoring.runs.HISTOGRAMS", "SELECT pg_sleep(10), %(queue)s")
    page = admin_client.get(PAGE)
    assert "Reading the charts and times of this queue took too long, and was stopped." in page.text
    assert "No run ended within the last hour." in page.text


def test_who_may_see_queues_alone_sees_neither_workers_nor_jobs_of_one(client, person):
    Queue.objects.named("ai")
    make_worker(name="worker 7"), make(queue="ai")
    JobStats.objects.create(
        granularity="minute", starts_at=ago(5 * MINUTE), queue="ai", task="tests.jobs.add", succeeded=7
    )
    person("view_queue")
    text = client.get(PAGE).text
    assert "worker 7" not in text
    assert "succeeded" not in text
    assert "/job/" not in text


@pytest.mark.parametrize("name", ["ai", 'a "quoted"/name & <b>'])
def test_a_button_pauses_and_resumes(admin_client, name):
    Queue.objects.named(name)
    for label, is_paused in (("Pause", True), ("Resume", False)):
        assert f">{label}<" in admin_client.get(f"{LIST}{quote(name)}/change/").text
        admin_client.post(f"{LIST}{quote(name)}/operate/{label.lower()}/")
        assert (Queue.objects.get().paused_at is not None) == is_paused


def test_an_action_pauses_many(admin_client):
    Queue.objects.named("a", "b", "c")
    act(admin_client, "pause_queues", Queue.objects.exclude(name="c"), LIST)
    assert set(Queue.objects.filter(paused_at__isnull=False).values_list("name", flat=True)) == {"a", "b"}


def test_an_edit_survives_a_deploy_until_it_is_reset(admin_client):
    declared()
    assert admin_client.post(PAGE, {**FORM, "max_running": "2"}).status_code == 302
    Queue.objects.declare({"ai": {**LIMITS, "max_running": 9}})
    assert Queue.objects.get().max_running == 2
    assert b"does not follow the settings" in admin_client.get(PAGE).content
    admin_client.post(f"{LIST}ai/operate/reset/")
    assert Queue.objects.get().max_running == 9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate_count": "5"}, "A rate needs both"),
        ({"rate_seconds": "5"}, "A rate needs both"),
        ({"max_running": "0"}, "a whole number from 1"),
        ({"rate_count": "0", "rate_seconds": "5"}, "a pair such as (10, 60)"),
        ({"rate_count": "1", "rate_seconds": "-1"}, "a pair such as (10, 60)"),
        ({"rate_count": "1", "rate_seconds": "nan"}, "invalid"),
        ({"limiter": "unknown"}, "invalid_choice"),
    ],
)
def test_a_limit_that_no_claim_could_obey_is_refused(admin_client, changes, said):
    declared()
    response = admin_client.post(PAGE, {**FORM, **changes})
    assert response.status_code == 200
    assert any(said in why for why in refusals(response.context["adminform"].form))
    assert Queue.objects.get().edited_at is None


def listed(client, **query):
    return [row.name for row in client.get(LIST, query).context["cl"].result_list]


def test_a_queue_that_has_jobs_or_a_worker_and_no_row_is_listed(admin_client):
    Queue.objects.named("default")
    make(queue="mail & more", ready_at=ago(2 * HOUR)), make_running(queue="mail & more")
    make_worker(queues=["ai"]), make_worker(queues=["old"], silent_for=HOUR)
    assert listed(admin_client) == ["ai", "default", "mail & more"]
    response = admin_client.get(LIST)
    assert texts(response, "waiting") == ["0", "0", "1"]
    assert texts(response, "oldest") == ["-", "-", "2 h"]
    assert "3 queues" in text_of(response)
    assert listed(admin_client, q="MAIL") == ["mail & more"]
    assert list(Queue.objects.values_list("name", flat=True)) == ["default"], "a look writes nothing"


def test_the_numbers_of_a_queue_lead_to_its_jobs(admin_client):
    waiting, running = make(queue="ai"), make_running(queue="ai")
    make(queue="mail")
    response = admin_client.get(LIST)
    for column, job in (("waiting", waiting), ("running", running)):
        address = re.search('href="([^"]*)"', cells(response, column)[0])[1].replace("&amp;", "&")
        assert [each.pk for each in admin_client.get(address).context["cl"].result_list] == [job.pk]


def test_the_page_of_a_queue_without_a_row_is_there_and_an_edit_creates_the_row(admin_client):
    make(queue="mail & more")
    page = f"{LIST}{quote('mail & more')}/change/"
    assert admin_client.get(page).status_code == 200
    assert admin_client.get(f"{LIST}nobody/change/", follow=True).redirect_chain
    assert not Queue.objects.exists()
    assert admin_client.post(page, {**FORM, "max_running": "1"}).status_code == 302
    assert Queue.objects.get().max_running == 1


@pytest.mark.parametrize("name", ["tenant_40", "a/b", "50%"])
def test_the_address_of_a_queue_without_a_row_is_its_own(admin_client, name):
    make(queue=name), make(queue="tenant@")
    address = re.search('href="([^"]*)"', cells(admin_client.get(LIST, {"q": name}), "name")[0])[1]
    page = admin_client.get(address)
    assert page.context["row"].name == name
    admin_client.post(address.replace("/change/", "/operate/pause/"))
    assert Queue.objects.get().name == name


def test_a_queue_beyond_the_names_that_are_read_has_its_page(admin_client, monkeypatch):
    make(queue="ai")
    monkeypatch.setattr("pgonly_django.monitoring.queues.known_queues", lambda alias: set())
    assert admin_client.get(PAGE).status_code == 200


def test_a_list_that_is_narrowed_by_a_column_has_no_queues_without_that(admin_client):
    make(queue="ai")
    Queue.objects.named("mail").pause()
    assert listed(admin_client, paused_at__isnull="False") == ["mail"]


def test_an_action_pauses_queues_without_a_row(admin_client):
    make(queue="ai"), make(queue="mail")
    act(admin_client, "pause_queues", [Queue(name="ai"), Queue(name="nobody")], LIST)
    assert [(row.name, row.paused_at is not None) for row in Queue.objects.all()] == [("ai", True)]


@pytest.mark.parametrize("right", ["view_job", "view_queue"])
def test_who_may_not_change_queues_creates_no_row(client, person, right):
    make(queue="ai")
    person(right)
    client.post(PAGE, FORM), client.post(f"{LIST}ai/operate/pause/")
    act(client, "pause_queues", [Queue(name="ai")], LIST)
    assert not Queue.objects.exists()


def test_a_paused_queue_says_who_since_when_and_what_waits(admin_client, admin_user):
    make_worker()
    Queue.objects.named("ai", "mail")
    oldest = make(queue="ai", ready_at=ago(2 * HOUR))
    act(admin_client, "pause_queues", [Queue(name="ai")], LIST)
    Queue.objects.filter(name="mail").pause()
    ai, mail = texts(admin_client.get(LIST), "name")
    assert re.search(rf"paused since [\d :-]+, by {admin_user}", ai)
    assert re.search(r"paused since [\d :-]+$", mail)
    page = admin_client.get(PAGE)
    assert "Oldest job: 2 h" in text_of(page)
    assert str(oldest.pk) in page.text
    assert f", by {admin_user}" in text_of(page)


def test_only_a_queue_that_no_setting_declares_can_be_deleted(admin_client, settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"ai": {"max_running": 5}}}
    declared(), Queue.objects.named("other")
    assert admin_client.post(f"{LIST}ai/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"{LIST}other/delete/", {"post": "yes"}).status_code == 302
    assert Queue.objects.get().name == "ai"
