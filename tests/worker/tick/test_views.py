"""A tick by its URL, in this process. Real servers are in tests/process/test_tick.py."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from contextlib import suppress

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.test import AsyncClient, Client
from django.urls import path, reverse
from django.views.decorators.http import require_GET

from pgonly_django.models import Job, State, Worker
from pgonly_django.worker.tick import running, views
from pgonly_django.worker.tick.views import is_valid_header, is_valid_token, token
from tests import activity, jobs
from tests.aliases import alias
from tests.docs.pages import DOCS
from tests.jobs import timed
from tests.waiting import wait_for

SECRET = "a secret of twenty-two"


def url():
    return reverse("pgonly:tick", args=[token()])


def test_it_runs_what_is_ready_and_says_so(tick):
    results = [jobs.add.enqueue(n) for n in range(5)]
    failing = jobs.fail.using(max_attempts=1).enqueue()
    later = jobs.add.using(run_after=None).enqueue(9)
    assert tick() == {
        "done": 7,
        "failed": 1,
        "released": 0,
        "ready": 0,
        "oldest_seconds": None,
        "next_due_seconds": None,
    }
    assert {each.job.state for each in (*results, later)} == {State.SUCCEEDED}
    assert failing.job.state == State.FAILED


def test_the_answer_is_that_of_the_docs(tick):
    (shown,) = re.findall(r'```json\n(\{"done".*?)\n```', (DOCS / "how-to/serverless.md").read_text())
    assert json.loads(shown).keys() == tick().keys()


@pytest.mark.slow
def test_it_says_what_is_left(tick, marks):
    first = jobs.hold_on.using(priority=10).enqueue("k")
    jobs.add.enqueue(1)
    Job.objects.update(ready_at=connection_time("- interval '1 hour'"))
    due = jobs.add.enqueue(2).job
    Job.objects.filter(pk=due.pk).update(state=State.SCHEDULED, run_at=connection_time("+ interval '1 hour'"))
    answer = Client().get(url(), {"seconds": "3"}).json()  # less than TICK_SECONDS
    assert (answer["done"], answer["released"]) == (0, 1)
    assert answer["ready"] == 2
    assert answer["oldest_seconds"] >= 3600
    assert 3500 < answer["next_due_seconds"] <= 3600
    assert first.job.attempt == 0


def connection_time(change):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT clock_timestamp() {change}")
        return cursor.fetchone()[0]


def test_each_step_is_paid_once_over_many_ticks(tick, marks):
    result = timed.pay_in_turn.enqueue("k", 25, 0.1)
    ticks = 0
    while result.job.state != State.SUCCEEDED:
        assert tick(seconds=1.5)["failed"] == 0
        ticks += 1
        assert ticks < 30
    assert ticks > 1
    assert marks() == [f"k:{n}" for n in range(25)]
    assert (result.job.attempt, result.job.crashes) == (1, 0)


@pytest.mark.parametrize("method", ["get", "post"])
def test_it_needs_no_csrf_token_and_no_session(tick, method, settings):
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    response = getattr(Client(enforce_csrf_checks=True), method)(url())
    assert (response.status_code, response.json()["done"]) == (200, 0)
    assert "no-store" in response["Cache-Control"]


def test_who_has_no_token_may_not(transactional_db, settings):
    plain = reverse("pgonly:tick")
    for given in (plain, plain + "x/", plain + "?token=x", plain + "?token="):
        response = Client().get(given)
        assert (response.status_code, "pgonly_tick_url" in response.json()["error"]) == (403, True)
    assert Client().get(plain, headers={"Authorization": "Bearer "}).status_code == 403
    assert Client().delete(url()).status_code == 405
    assert not Worker.objects.exists()


@pytest.mark.parametrize("seconds", ["0", "26", "x", "nan", "inf", "-1", ""])
def test_it_cannot_be_asked_for_longer(transactional_db, settings, seconds):
    response = Client().get(url(), {"seconds": seconds})
    assert response.status_code == 400
    assert response.json()["error"].startswith("?seconds= must be a number from 1 to 25,")


def test_atomic_requests_put_no_transaction_around_it(tick, settings, marks):
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        jobs.mark_once.enqueue("k")
        assert tick()["done"] == 1
        assert async_to_sync(AsyncClient().get)(url()).status_code == 200
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert marks() == ["k"]


@pytest.mark.django_db
def test_inside_a_transaction_it_says_that_it_would_see_nothing():
    with transaction.atomic():
        response = Client().get(url())
    assert response.status_code == 500
    assert "TransactionTestCase" in response.json()["error"]


def test_under_asgi_it_runs_jobs_as_well(tick, marks):
    jobs.mark_once.enqueue("sync")
    jobs.sleep_async.enqueue("async", 0.01)
    response = async_to_sync(AsyncClient().get)(url())
    assert (response.status_code, response.json()["done"]) == (200, 2)
    assert sorted(marks()) == ["async:started", "sync"]


@pytest.mark.slow
def test_of_two_at_once_in_one_process_the_second_returns_at_once(tick, marks):
    jobs.hold_on.enqueue("k", 3.0)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(Client().get(url()).json()))
    thread.start()
    wait_for(lambda: "k:started" in marks())
    assert Client().get(url()).json() == {"busy": True}
    thread.join(20)
    assert answers[0]["done"] == 1
    assert tick()["done"] == 0


@pytest.mark.slow
def test_a_job_that_ignores_its_interruption_is_given_back_and_keeps_no_tick_waiting(
    tick, marks, caplog, monkeypatch
):
    result = jobs.stubborn.enqueue("k", 8.0)
    answer = tick(seconds=2.0)
    assert (answer["released"], answer["ready"]) == (1, 1)
    assert (result.job.state, result.job.attempt, result.job.crashes) == (State.READY, 0, 0)
    assert "still run in this process" in caplog.text
    result.cancel()
    assert tick()["done"] == 0
    monkeypatch.setattr(running, "LEFT_AT_MOST", 1)
    response = Client().get(url())
    assert response.status_code == 503
    assert "restart the process" in response.json()["error"]


def test_a_server_that_ends_its_request_gives_the_job_back_at_once(tick, marks):
    """As gunicorn does at its --timeout: a handler of a signal raises SystemExit in the main thread."""
    result = jobs.hold_on.enqueue("k")

    def end(*_):
        raise SystemExit(1)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        thread = threading.Thread(target=raise_once_started, args=(marks,))
        thread.start()
        with pytest.raises(SystemExit):
            Client().get(url())
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    assert (result.job.state, result.job.attempt, result.job.crashes) == (State.READY, 0, 0)


def raise_once_started(marks):
    wait_for(lambda: "k:started" in marks())
    connection.close()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)


def test_a_database_that_is_away_is_answered_at_once(tick, settings, any_database):
    options = {"OPTIONS": {"database": "away"}}
    settings.TASKS = {"default": {**settings.TASKS["default"], **options}}
    with alias("away", HOST="127.0.0.1", PORT="1"):
        response = Client().get(url())
    assert response.status_code == 503
    assert "PostgreSQL (away) does not answer" in response.json()["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "get", [lambda: Client().get(url()), lambda: async_to_sync(AsyncClient().get)(url())]
)
def test_a_database_that_hangs_keeps_no_request_waiting(tick, settings, marks, get):
    settings.PGONLY = {**settings.PGONLY, "TICK_SECONDS": 2}
    result = jobs.hold_on.enqueue("k")
    stopped = []
    thread = threading.Thread(target=stop_backend_once_started, args=(marks, stopped))
    thread.start()
    try:
        response = get()
        assert response.status_code == 503
        assert "PostgreSQL does not answer" in response.json()["error"]
    finally:
        thread.join()
        for pid in stopped:
            with suppress(ProcessLookupError):  # the server has ended it by now
                os.kill(pid, signal.SIGCONT)
    wait_for(lambda: running._going is None)
    assert (result.job.state, result.job.attempt) == (State.READY, 0)


def stop_backend_once_started(marks, stopped):
    """That of the tick, which is idle then."""
    wait_for(lambda: "k:started" in marks())
    stopped += activity.pids("application_name LIKE 'pgonly worker %'")
    connection.close()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)


def test_an_error_in_the_loop_is_answered_and_logged(tick, monkeypatch, caplog):
    monkeypatch.setattr(running.TickBeat, "run", lambda self: 1 / 0)
    response = Client().get(url())
    assert (response.status_code, "division by zero" in response.json()["error"]) == (500, True)
    assert "Traceback" in caplog.text


def test_what_is_no_view_of_a_tick_keeps_its_own(tick):
    """The pattern changes its own match alone."""

    @require_GET
    def other(request):
        raise AssertionError

    assert path("x/", other).resolve("x/").func is other
    assert views.atick is not views.tick


def test_a_tick_leaves_one_row_behind_and_forgets_old_ones(tick):
    tick()
    long_ago = connection_time("- interval '11 minutes'")
    Worker.objects.update(stopped_at=long_ago, heartbeat_at=long_ago)
    tick()
    (worker,) = Worker.objects.all()
    assert (worker.name, worker.stopped_at is not None, worker.running) == ("tick", True, 0)


# Who may.


@pytest.fixture
def secret(settings):
    settings.PGONLY = {**settings.PGONLY, "TICK_SECRET": SECRET}


def test_a_token_holds_until_the_key_changes(settings):
    before = token()
    assert is_valid_token(before)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another", [settings.SECRET_KEY]
    assert is_valid_token(before)
    settings.SECRET_KEY_FALLBACKS = []
    assert not is_valid_token(before)


def test_another_secret_takes_the_url_back(settings):
    before = token()
    settings.PGONLY = {**settings.PGONLY, "TICK_SECRET": SECRET}
    assert not is_valid_token(before)
    assert is_valid_token(token())


@pytest.mark.parametrize("given", ["", "x", "ü", "a:b", ":", " ", "tick :x"])
def test_what_is_no_token_is_refused(given):
    assert not is_valid_token(given)


def test_the_header_holds_the_secret_or_the_token_and_the_query_the_token(tick, secret):
    assert is_valid_header(f"Bearer {SECRET}")
    assert is_valid_header(f"bearer {SECRET}")
    assert is_valid_header(f"Bearer {token()}")
    plain = reverse("pgonly:tick")
    assert Client().get(plain, headers={"Authorization": f"Bearer {SECRET}"}).status_code == 200
    assert Client().get(plain, {"token": token()}).status_code == 200
    for wrong in ("", "Bearer", "Bearer ", f"Basic {SECRET}", f"Bearer {SECRET}x", "Bearer ü"):
        assert not is_valid_header(wrong)


def test_without_a_secret_an_empty_one_is_refused():
    assert not is_valid_header("Bearer ")
    assert not is_valid_header("Bearer")
