"""The overview: the first page of the app in the admin."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.utils import timezone

from pgonly_django.admin.overview import overview as module
from pgonly_django.admin.overview import panels as overview_panels
from pgonly_django.admin.sums import start_of_today
from pgonly_django.models import Budget, CostEntry, JobStats, Limiter, Queue, Schedule, Session, State
from tests.admin.conftest import make_job, make_session
from tests.queue.rows import ago, make, make_running, make_worker

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = "/admin/pgonly_django/"
MORE = f"{PAGE}overview/more/"
BEHIND = {panel.name for panel in overview_panels.MORE}


def panels(response) -> dict[str, str]:
    """The HTML of each panel by its name."""
    return dict(re.findall(r'<section [^>]*data-live="(\w+)"(.*?)</section>', response.text, re.DOTALL))


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def log_in(user_id):
    Session.objects.filter(pk=make_session().pk).update(user_id=user_id)


@pytest.fixture
def shown(admin_client):
    """What a panel shows, as text."""
    return lambda name, query="": words(
        panels(admin_client.get(f"{MORE if name in BEHIND else PAGE}{query}"))[name]
    )


def test_an_empty_installation_has_a_page_without_alerts_that_says_what_to_start(admin_client):
    response = admin_client.get(PAGE)
    assert response.status_code == 200
    assert "Nothing yet. No worker is live" in words(panels(response)["alerts"])
    assert "manage.py runworker" in panels(response)["alerts"]
    assert "manage.py runworker" in panels(response)["workers"]
    assert 'href="/admin/pgonly_django/schedule/"' in response.text  # on a phone, too, which has no sidebar


def test_a_killed_worker_that_held_no_job_is_not_called_live(shown):
    make_worker(silent_for=timedelta(minutes=5))
    assert "Dead" in shown("workers")
    assert "Nothing yet. No worker is live" in shown("alerts")
    make_worker()
    assert "Nothing. Failed jobs" in shown("alerts")


def test_who_may_not_see_workers_is_not_told_that_every_queue_is_served(client, person):
    person("view_budget", "view_queue")
    alerts = words(panels(client.get(PAGE))["alerts"])
    assert "Nothing of what you may see." in alerts
    assert "served" not in alerts


def test_the_costs_of_today_and_of_the_month_are_added_up_for_who_may_see_them(shown, client, person):
    CostEntry.objects.create(usd="1.20")
    CostEntry.objects.create(usd=2, at=start_of_today().replace(day=1))
    today = "$3.20" if start_of_today().day == 1 else "$1.20"
    assert f"{today} today, $3.20 this month: by day, model and task" in shown("costs")
    person("view_budget")
    assert "costs" not in panels(client.get(PAGE))


def test_today_is_shown_where_the_calls_of_a_month_are_too_many_to_add_up(shown, monkeypatch):
    monkeypatch.setattr(overview_panels, "MONTH_LIMIT", timedelta(milliseconds=1))
    with connection.cursor() as cursor:
        since = start_of_today().replace(day=1)
        cursor.execute(
            "INSERT INTO pgonly_cost (at, usd) SELECT %s, 0.01 FROM generate_series(1, 100000)", [since]
        )
    text = shown("costs")
    assert " today: by day, model and task" in text
    assert "this month" not in text


def test_a_site_without_costs_has_no_panel_of_them(admin_client):
    CostEntry.objects.create(usd=1, at=start_of_today().replace(day=1) - timedelta(days=1))
    assert "costs" not in panels(admin_client.get(PAGE))


def test_the_states_are_counted_and_lead_to_the_list(shown, admin_client):
    make_job(State.FAILED), make_job(State.FAILED), make_job(State.HELD)
    assert "1 Held" in shown("states")
    assert "2 Failed" in shown("states")
    assert 'href="/admin/pgonly_django/job/?state__exact=failed"' in admin_client.get(PAGE).text


@pytest.mark.parametrize("served", [["ai"], []])
def test_a_queue_without_a_worker_is_said_first(shown, served):
    make(queue="ai", ready_at=ago(timedelta(minutes=7, seconds=1)))
    make(queue="ai")
    make_worker(queues=["mail"])
    assert "No live worker serves “ai”: 2 jobs wait, the oldest for 7 min" in shown("alerts")
    make_worker(queues=served)
    assert "Nothing." in shown("alerts")


def test_without_any_worker_there_is_one_line_for_all_queues(shown):
    make(queue="ai", ready_at=ago(timedelta(minutes=7, seconds=1))), make(queue="paused")
    make(queue="mail", ready_at=ago(timedelta(minutes=1))), make(queue="new")
    Queue.objects.named("paused").pause()
    text = shown("alerts")
    assert "No worker is live: 2 jobs wait in 2 queues, the oldest for 7 min" in text
    assert "No live worker serves" not in text
    assert re.search(r"The queue “paused” has been paused since [^:]+:\S+: 1 job waits", text)


def test_a_silent_worker_that_holds_jobs_is_said(shown, admin_client):
    worker = make_worker(silent_for=timedelta(seconds=45), running=1)
    assert "Nothing yet." in shown("alerts")  # it holds none yet
    make_running(worker.pk)
    assert re.search(r"The worker w \(.*\) has been silent for \d+ s and holds 1 job\.", shown("alerts"))
    assert f"/worker/{worker.pk}/change/" in panels(admin_client.get(PAGE))["alerts"]
    assert re.search(r"silent \d+ s", shown("workers"))


def test_held_budgets_cool_downs_and_problems_of_schedules_are_said(shown):
    Budget.objects.create(name="project:7", usd=1)
    make_job(State.HELD, held_by="budget:project:7")
    Limiter.objects.create(name="deepseek", blocked_until=timezone.now() + timedelta(minutes=5, seconds=30))
    Schedule.objects.create(
        name="nightly", task="gone.task", every_seconds=60, problem="There is no gone.task."
    )
    text = shown("alerts")
    assert "The budget “project:7” holds 1 job." in text
    assert "The limiter “deepseek” cools down for another 5 min" in text
    assert "The schedule “nightly” could not enqueue its job: There is no gone.task." in text


def test_an_old_transaction_of_a_worker_names_its_job(shown, monkeypatch):
    from pgonly_django.database.connect import connect
    from pgonly_django.monitoring.conditions import OLD_SNAPSHOT

    monkeypatch.setattr(OLD_SNAPSHOT, "limit", 0)
    worker = make_worker()
    make_running(worker.pk, task="reports.tasks.yearly", attempted_at=ago(timedelta(hours=1)))
    with connect("default", application_name=f"pgonly jobs {worker.pk}") as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        assert "A transaction has been open for" in shown("alerts")
        assert "reports.tasks.yearly (job " in shown("alerts")
        other.execute("ROLLBACK")


def test_the_bars_of_a_period_come_from_the_statistics(shown, admin_client):
    stats = {"queue": "default", "task": "tests.jobs.add"}
    JobStats.objects.create(granularity="minute", starts_at=ago(timedelta(minutes=5)), succeeded=40, **stats)
    JobStats.objects.create(granularity="hour", starts_at=ago(timedelta(hours=5)), succeeded=700, **stats)
    assert "40 succeeded" in shown("throughput")
    assert "700 succeeded" in shown("throughput", "?period=day")
    assert "700 succeeded" in shown("throughput", "?period=week")
    assert "40 succeeded" in shown("throughput", "?period=century")
    assert panels(admin_client.get(MORE))["throughput"].count('<rect class="pgonly-bar pgonly-succeeded') == 1


def test_waiting_and_run_times_are_shown_per_task(shown):
    JobStats.objects.create(
        granularity="minute", starts_at=ago(timedelta(minutes=5)), queue="ai", task="tests.jobs.add",
        succeeded=6, failed=3, crashed=3, retried=1, waiting_times=[0, 0, 10], run_times=[0] * 20 + [10],
    )  # fmt: skip
    assert re.search(r"add ai 13 7 ≈ [\d.]+ ms / [\d.]+ ms ≈ [\d.]+ ms / [\d.]+ (s|ms)", shown("times"))


def test_a_button_pauses_a_queue_and_comes_back(admin_client):
    Queue.objects.named("ai")
    html = panels(admin_client.get(f"{PAGE}?period=day"))["queues"]
    action = re.search(r'action="([^"]*/operate/pause/)"', html).group(1)
    back = re.search(r'name="next" value="([^"]*)"', html).group(1)
    response = admin_client.post(action, {"next": back})
    assert response["Location"] == f"{PAGE}?period=day"
    assert Queue.objects.get().paused_at is not None


def test_the_queue_comes_first_whose_job_has_waited_longest_also_a_paused_one(shown):
    make(queue="ai", ready_at=ago(timedelta(minutes=7, seconds=1)))
    make(queue="paused", ready_at=ago(timedelta(minutes=20, seconds=1)))
    Queue.objects.named("paused").pause()
    make(queue="an idle one", ready_at=ago(timedelta(0)))
    assert re.search("paused Paused 1 20 min .* ai No worker 1 7 min .* an idle one", shown("queues"))


def test_the_panel_of_queues_ends_in_a_line_that_leads_to_all_of_them(admin_client):
    for number in range(overview_panels.QUEUES_SHOWN + 2):
        make(queue=f"queue {number}")
    html = panels(admin_client.get(PAGE))["queues"]
    assert html.count("<tr data-key") == overview_panels.QUEUES_SHOWN
    assert f'<a href="{PAGE}queue/">and 2 more</a>' in html


def test_a_queue_that_has_jobs_and_no_row_can_be_paused(admin_client):
    make(queue="new & odd")
    html = panels(admin_client.get(PAGE))["queues"]
    action = re.search(r'action="([^"]*/operate/pause/)"', html).group(1)
    admin_client.post(action, {"next": PAGE})
    assert Queue.objects.get(name="new & odd").paused_at is not None
    assert admin_client.post("/admin/pgonly_django/queue/unknown/operate/pause/").status_code == 404
    assert Queue.objects.count() == 1


@pytest.mark.parametrize("next_page", ["https://evil.example/", "//evil.example/", "", "javascript:alert(1)"])
def test_no_button_leads_to_another_site(admin_client, next_page):
    Queue.objects.named("ai")
    response = admin_client.post("/admin/pgonly_django/queue/ai/operate/pause/", {"next": next_page})
    assert response["Location"] == "/admin/pgonly_django/queue/ai/change/"


def test_a_worker_shows_its_jobs_with_their_progress(admin_client):
    worker = make_worker(name="blue", queues=["ai"])
    job = make_running(worker.pk, progress={"done": 3, "total": 10, "message": "paper 3"})
    html = panels(admin_client.get(PAGE))["workers"]
    assert "blue" in html
    assert f"/admin/pgonly_django/job/{job.pk}/change/" in html
    assert '<progress class="pgonly-progress" value="3" max="10">' in html
    assert re.search(r"3 / 10 · 30 % · paper 3 · for \d s", words(html))


@pytest.mark.parametrize(("total", "is_told"), [(1_000, False), (2_000, True)])
def test_a_job_that_is_nearly_done_does_not_say_that_0_s_are_left(shown, total, is_told):
    progress, began = {"done": 999, "total": total}, ago(timedelta(minutes=10))
    make_running(make_worker().pk, progress=progress, attempted_at=began)
    assert (" left" in shown("workers")) is is_told


def test_a_late_worker_comes_first_and_many_lead_to_their_list(shown, monkeypatch):
    from pgonly_django.admin.overview import panels as module

    late = make_worker(name="late", silent_for=timedelta(seconds=45), running=1)
    make_running(late.pk)
    make_worker(name="fresh"), make_worker(name="another")
    monkeypatch.setattr(module, "WORKERS_SHOWN", 1)
    assert "late" in shown("workers")
    assert "and 2 more" in shown("workers")
    assert "fresh" not in shown("workers")


def test_a_live_worker_is_drained_with_a_button(admin_client):
    worker = make_worker()
    html = panels(admin_client.get(PAGE))["workers"]
    found = re.findall(r'action="[^"]*/worker/([^"]*)/operate/(\w+)/"', html)
    assert found == [(str(worker.pk), "stop"), (str(worker.pk), "drain")]
    answer = admin_client.post(f"{PAGE}worker/{worker.pk}/operate/drain/", {"next": PAGE})
    assert answer["Location"] == PAGE
    assert "Draining" in words(panels(admin_client.get(PAGE))["workers"])


def test_a_message_of_a_job_needs_the_permission_to_see_data(client, person):
    make_running(make_worker().pk, progress={"done": 3, "total": 10, "message": "patient 4711"})
    person("view_worker", "view_job")
    assert "3 / 10" in panels(client.get(PAGE))["workers"]
    assert "4711" not in client.get(PAGE).text
    person("view_worker", "view_job", "view_job_data")
    assert "patient 4711" in client.get(PAGE).text


def test_a_dead_worker_is_shown_for_an_hour_or_while_it_holds_jobs(shown):
    make_worker(name="forgotten", silent_for=timedelta(hours=2))
    held = make_worker(name="holder", silent_for=timedelta(hours=2), running=1)
    make_worker(name="recent", silent_for=timedelta(minutes=30))
    make_running(held.pk)
    text = shown("workers")
    assert "holder" in text
    assert "recent" in text
    assert "forgotten" not in text


def test_sessions_are_counted_by_user_and_those_of_one_are_revoked_with_a_button(admin_client):
    ada, grace = User.objects.create_user("ada"), User.objects.create_user("grace")
    log_in(str(ada.pk)), log_in(str(ada.pk)), log_in(str(grace.pk))
    html = panels(admin_client.get(MORE))["sessions"]
    assert "of them logged in" in words(html)
    assert "ada 2" in words(html)
    action = re.search(r'ada</a>.*?action="([^"]*/operate/revoke_user/)"', html, re.DOTALL).group(1)
    assert admin_client.post(action, {"next": PAGE})["Location"] == PAGE
    assert not Session.objects.for_user(ada).exists()
    assert Session.objects.for_user(grace).exists()


def test_caches_schedules_limiters_and_budgets_are_shown(shown):
    Budget.objects.create(name="b", usd=1)
    Limiter.objects.create(name="l", concurrent=3)
    soon = timezone.now() + timedelta(hours=1, minutes=1)
    Schedule.objects.create(name="s", task="tests.jobs.add", cron="0 3 * * *", next_at=soon)
    assert "answers 0" in shown("caches")
    assert "in 1 h" in shown("schedules")
    assert "0 of 3" in shown("limiters")
    assert "$0.00 of $1.00" in shown("budgets")


def test_a_person_sees_the_panels_of_what_he_may_view(client, person):
    Budget.objects.create(name="b", usd=1)
    person("view_job")
    assert set(panels(client.get(PAGE))) == {"alerts", "states"}
    assert set(panels(client.get(MORE))) == {"throughput", "latency", "times"}
    person("view_budget", "view_session")
    assert set(panels(client.get(PAGE))) == {"alerts"}
    assert set(panels(client.get(MORE))) == {"budgets", "sessions"}


def test_the_headings_behind_the_overview_are_links_on_it(admin_client, client, person):
    log_in("7")
    html = admin_client.get(PAGE).text
    links = re.findall(rf'<a href="{MORE}#panel-(\w+)">', html)
    assert links == [panel.name for panel in overview_panels.MORE]
    assert 'id="panel-sessions"' in admin_client.get(MORE).text
    person("view_session")
    assert re.findall(r"#panel-(\w+)", client.get(PAGE).text) == ["sessions"]


def test_the_headings_of_panels_lead_to_their_lists(admin_client):
    html = admin_client.get(PAGE).text
    headings = re.findall(r'<h2 id="title-(\w+)"><a href="([^"]*)">', html)
    assert dict(headings) == {
        "states": f"{PAGE}job/", "workers": f"{PAGE}worker/", "queues": f"{PAGE}queue/",
    }  # fmt: skip


def test_a_person_who_may_only_view_has_no_buttons(client, person):
    Queue.objects.named("ai")
    person("view_queue", "view_worker", "view_job", "view_cacheentry", "view_durablecacheentry")
    for page in (PAGE, MORE):
        html = client.get(page).text
        overview = html[html.index('data-live="') :]
        assert "<form" not in overview
        assert "/clear/" not in overview


@pytest.mark.slow
def test_a_panel_that_takes_too_long_says_so_and_the_others_are_there(admin_client, monkeypatch):

    def slow(_alias):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(10)")

    monkeypatch.setattr(module, "TIME_LIMIT", timedelta(seconds=1))
    monkeypatch.setattr(module, "queues", slow)
    found = panels(admin_client.get(PAGE))
    assert "took too long" in found["queues"]
    assert "took too long" in found["alerts"]
    assert "Failed" in found["states"]


@pytest.mark.slow
def test_a_locked_table_holds_no_other_panel_up(admin_client, monkeypatch):
    """As a migration locks it."""
    from pgonly_django.database.connect import connect

    monkeypatch.setattr(module, "TIME_LIMIT", timedelta(seconds=1))
    log_in(str(User.objects.create_user("ada").pk))
    with connect("default", application_name="locks") as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE pgonly_job IN ACCESS EXCLUSIVE MODE")
        found = panels(admin_client.get(PAGE)) | panels(admin_client.get(MORE))
        other.execute("ROLLBACK")
    assert all("took too long" in found[name] for name in ("alerts", "states", "queues", "workers"))
    assert "ada" in found["sessions"]


@pytest.mark.parametrize("error", [OperationalError("gone"), ValueError("odd row")])
def test_a_panel_that_fails_does_not_take_the_others_away(admin_client, monkeypatch, error):
    def fail(_alias):
        raise error

    monkeypatch.setattr(module, "workers", fail)
    found = panels(admin_client.get(PAGE))
    assert "pgonly-problem" in found["workers"]
    assert "Failed" in found["states"]


def test_the_tiles_tell_what_scheduled_jobs_wait_for(admin_client):
    make_job(State.SCHEDULED, run_at=ago(timedelta(hours=-1)))
    make_job(State.SCHEDULED, run_at=ago(timedelta(hours=-1)), attempt=1, errors=[{"outcome": "failed"}])
    html = panels(admin_client.get(PAGE))["states"]
    assert "1 Scheduled 1 Retrying" in words(html)
    assert "Waits for jobs" not in words(html)
    assert "state__exact=retrying" in html
