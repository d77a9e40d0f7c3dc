from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from django.core import signing
from django.db import transaction
from django.test import override_settings

from pgonly_django import enqueue_many
from pgonly_django.database import notify, wake_urls
from pgonly_django.models import Job, Queue, Schedule
from pgonly_django.models.job import State
from tests import zygote
from tests.children import environment
from tests.docs.pages import snippet
from tests.http_receiver import receiver
from tests.jobs import add
from tests.queue.rows import make, make_running
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(wake_urls, "PACE_SECONDS", 0.0)
    yield
    assert all_idle()
    wake_urls._urls.clear()  # the next receiver may get the same port, and must not be reached by this test's proxy


def all_idle() -> bool:
    return wait_for(lambda: not any(url._has_thread for url in wake_urls._urls.values()))


@pytest.fixture
def sleeping(settings):
    """The server of a worker that sleeps."""
    with receiver() as server:
        settings.PGONLY = {**settings.PGONLY, "WAKE_URLS": [server.url]}
        yield server
        server.answers.set()
        all_idle()


def posts(server) -> int:
    """How many came, once all that are wanted are posted."""
    wake_urls.flush(30)
    all_idle()
    return len(server.asked)


def test_a_committed_enqueue_posts_with_a_token_of_this_project(sleeping):
    with transaction.atomic():
        add.enqueue(1)
        assert posts(sleeping) == 0
    assert posts(sleeping) == 1
    (asked,) = sleeping.asked
    assert (asked.method, asked.target) == ("POST", "/wake")
    assert wake_urls.is_valid(asked.bearer)


def test_a_rolled_back_enqueue_posts_nothing(sleeping):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add.enqueue(1)
        raise ZeroDivisionError
    assert posts(sleeping) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda: enqueue_many([(add, [1]), (add, [2])]),
        lambda: Job.objects.failed().retry(),
        lambda: Queue.objects.filter(name="paused").resume(),
        lambda: Schedule(name="hourly", task="tests.jobs.add", cron="0 * * * *").save(),
        lambda: Job.objects.filter(state=State.HELD).resume(),
    ],
    ids=["enqueue_many", "retry", "queue resume", "schedule", "resume"],
)
def test_whatever_wakes_workers_posts(sleeping, change):
    make(state=State.FAILED), make(state=State.HELD)
    Queue.objects.create(name="paused", paused_at="2026-01-01T00:00Z")
    with transaction.atomic():
        change()
        assert posts(sleeping) == 0
    assert posts(sleeping) >= 1


def test_a_job_that_a_worker_gives_back_posts(sleeping, server):
    notify.send(server, "limited *")
    assert posts(sleeping) == 0
    notify.send(server, "limited *", "ready *")
    assert posts(sleeping) == 1


def test_a_cancelled_job_posts_nothing(sleeping):
    make_running()
    assert Job.objects.running().cancel() == 1
    assert posts(sleeping) == 0


def test_many_enqueues_post_at_once_and_once_more_after_the_last_commit(sleeping):
    sleeping.answers.clear()
    add.enqueue(0)
    wait_for(lambda: sleeping.asked)
    for number in range(50):
        add.enqueue(number)
    assert len(sleeping.asked) == 1
    sleeping.answers.set()
    assert posts(sleeping) == 2


def test_the_second_post_of_a_second_waits_for_its_turn(sleeping, monkeypatch):
    monkeypatch.setattr(wake_urls, "PACE_SECONDS", 3600.0)
    add.enqueue(0)
    wait_for(lambda: sleeping.asked)
    add.enqueue(1)
    (url,) = (url for url in wake_urls._urls.values() if url.url == sleeping.url)
    assert url._is_wanted and len(sleeping.asked) == 1
    assert posts(sleeping) == 2  # flush() does not wait for it


def test_a_url_that_hangs_delays_neither_the_caller_nor_another_url(settings, sleeping):
    with receiver() as other:
        settings.PGONLY = {**settings.PGONLY, "WAKE_URLS": [sleeping.url, other.url]}
        sleeping.answers.clear()
        add.enqueue(1)
        wait_for(lambda: sleeping.asked and other.asked)
        before = len(other.asked)
        add.enqueue(2)
        wait_for(lambda: len(other.asked) > before)
        assert len(sleeping.asked) == 1
        wake_urls.flush(0.01)  # gives up in time
        sleeping.answers.set()
        all_idle()


def test_failures_are_said_once_and_end_with_the_retry_that_succeeds(sleeping, monkeypatch, caplog):
    monkeypatch.setattr(wake_urls, "RETRY_SECONDS", (0.0, 0.0, 3600.0))
    sleeping.status = 503
    with caplog.at_level(logging.WARNING):
        add.enqueue(1)
        wait_for(lambda: len(sleeping.asked) == 3)
        sleeping.status = 202
        add.enqueue(2)  # does not wait for the hour that the next retry is away
        wait_for(lambda: len(sleeping.asked) == 4)
        all_idle()
    said = [record for record in caplog.records if record.event == "queue.wake_failed"]
    assert len(said) == 1
    assert "the answer is 503" in said[0].getMessage()
    assert said[0].url == sleeping.url


def test_no_retry_comes_after_the_last(sleeping, monkeypatch):
    monkeypatch.setattr(wake_urls, "RETRY_SECONDS", (0.0, 0.0))
    sleeping.status = 500
    add.enqueue(1)
    wait_for(lambda: len(sleeping.asked) == 3)
    assert posts(sleeping) == 3


def test_a_url_that_answers_too_late_is_tried_again(sleeping, monkeypatch, caplog):
    monkeypatch.setattr(wake_urls, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(wake_urls, "RETRY_SECONDS", (0.0, 0.0))
    sleeping.answers.clear()
    add.enqueue(1)
    wait_for(lambda: len(sleeping.asked) == 3)
    all_idle()
    assert "timed out" in caplog.text


def test_a_redirect_is_not_followed_and_takes_the_token_nowhere(sleeping, monkeypatch, caplog):
    monkeypatch.setattr(wake_urls, "RETRY_SECONDS", ())
    with receiver() as elsewhere:
        sleeping.status, sleeping.headers = 302, {"Location": elsewhere.url}
        add.enqueue(1)
        assert posts(sleeping) == 1
        assert elsewhere.asked == []
    assert f"the answer is 302 Found. It leads to {elsewhere.url}" in caplog.text


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "Do both sides have the same SECRET_KEY"), (404, "the answer is 404 Not Found.")],
)
def test_a_refusal_is_said_with_what_to_look_at(sleeping, monkeypatch, caplog, status, hint):
    monkeypatch.setattr(wake_urls, "RETRY_SECONDS", ())
    sleeping.status = status
    add.enqueue(1)
    assert posts(sleeping) == 1
    assert hint in caplog.text


@pytest.mark.parametrize("exempt", ["", "127.0.0.1"])
def test_the_proxy_of_the_environment_is_used_except_for_no_proxy(sleeping, monkeypatch, exempt):
    with receiver() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", exempt)
        add.enqueue(1)
        wake_urls.flush(30)
        all_idle()
        used = [] if exempt else [sleeping.url]
        assert [asked.target for asked in proxy.asked] == used
        assert len(sleeping.asked) == (1 if exempt else 0)


def test_a_test_suite_wakes_no_worker_of_the_site(sleeping, monkeypatch):
    monkeypatch.setattr(wake_urls, "_usual", set())
    wake_urls.remember_usual()
    add.enqueue(1)
    assert posts(sleeping) == 0


def test_wrong_settings_keep_no_notify_from_the_workers(server):
    notify._last_sent.clear(), notify._last_asked.clear()
    server.execute(f"LISTEN {notify.CHANNEL}")
    with override_settings(PGONLY={"WAKE_URLS": ["worker"]}):
        notify.send_coalesced("default", "ready default")
    server.execute("SELECT 1")
    assert [each.payload for each in server.notifies(timeout=0)] == ["ready default"]


def test_a_system_that_starts_no_thread_costs_a_warning(sleeping, monkeypatch, caplog):
    def refused(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as system:
        system.setattr(threading.Thread, "start", refused)
        add.enqueue(1)
    assert "no thread could be started" in caplog.text
    add.enqueue(2)
    assert posts(sleeping) == 1


def test_a_signal_handler_may_enqueue_wherever_it_interrupts(sleeping):
    url = wake_urls.WakeUrl(sleeping.url)
    before = signal.signal(signal.SIGUSR1, lambda *_: url.want())
    try:
        with url._changed:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    wait_for(lambda: sleeping.asked)
    wait_for(lambda: not url._has_thread)


def test_a_token_is_for_this_purpose_alone_and_for_a_minute(monkeypatch):
    token = wake_urls.token()
    assert wake_urls.is_valid(token)
    others = [
        "",
        "wake:x:y",
        token[:-1],
        signing.TimestampSigner(salt="another").sign("wake"),
        signing.TimestampSigner(salt=wake_urls.SALT).sign("another"),
        signing.Signer(salt=wake_urls.SALT).sign("wake"),  # without a time
        signing.Signer(salt=wake_urls.SALT).sign("wake:!!!"),
    ]
    assert not any(map(wake_urls.is_valid, others))
    with override_settings(SECRET_KEY="another"):
        assert not wake_urls.is_valid(token)
    monkeypatch.setattr(wake_urls, "TOKEN_SECONDS", -1)
    assert not wake_urls.is_valid(token)


# What enqueues right before its end: the process, a child, a thread that outlives the main thread, an exit handler.
SHORT_LIVED = """
import atexit, multiprocessing, os, sys, threading, time
from django.db import connections
from pgonly_django.database import wake_urls
from tests.jobs import add
wake_urls.PACE_SECONDS = 3600

def enqueue(by):
    add.enqueue(1)

def enqueue_in_child():
    connections.close_all()  # of the parent
    enqueue("child")

kind = os.environ["KIND"]
if kind == "process":
    enqueue("first"), enqueue("second")
elif kind == "child":
    from pgonly_django.models import Job
    Job.objects.count()
    imported = set(sys.modules)
    wake_urls.post_soon()
    wake_urls.flush()
    assert set(sys.modules) == imported
    connections.close_all()
    child = multiprocessing.get_context("fork").Process(target=enqueue_in_child)
    child.start()
    child.join()
    assert child.exitcode == 0
elif kind == "thread":
    def late():
        while threading.main_thread().is_alive():
            time.sleep(0.001)
        enqueue("thread")
    threading.Thread(target=late).start()
elif kind == "atexit":
    atexit.register(enqueue, "atexit")
elif kind == "hangs":
    wake_urls.TIMEOUT_SECONDS, wake_urls.END_SECONDS = 3600, 4.0
    enqueue("only")
"""


def run_short_lived(kind: str, url: str) -> subprocess.CompletedProcess[str]:
    command = ["manage.py", "shell", "--verbosity", "0", "-c", SHORT_LIVED]
    done = zygote.run(command, env=environment(TEST_WAKE_URLS=url, KIND=kind))
    done.check_returncode()
    return done


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "expected"), [("process", {1, 2}), ("child", {2}), ("thread", {1}), ("atexit", {1})]
)
def test_what_exits_right_after_its_commit_has_posted(sleeping, kind, expected):
    run_short_lived(kind, sleeping.url)
    assert len(sleeping.asked) in expected


def test_no_process_forks_while_certificates_are_read(monkeypatch):
    forks = []

    def read_certificates():
        assert wake_urls._opening.locked()
        forking.start()
        time.sleep(0)  # a chance to fork
        assert not forks
        return urllib.request.BaseHandler()

    def fork():
        child = os.fork()
        if not child:
            os._exit(0)
        forks.append(os.waitpid(child, 0)[1])

    forking = threading.Thread(target=fork)
    monkeypatch.setattr(urllib.request, "HTTPSHandler", read_certificates)
    wake_urls._new_opener("https://worker.example.com/wake")
    forking.join()
    assert forks == [0]


@pytest.mark.slow
@pytest.mark.process
def test_a_url_that_hangs_keeps_no_process_from_ending(sleeping):
    sleeping.answers.clear()
    run_short_lived("hangs", sleeping.url)
    assert len(sleeping.asked) == 1


@pytest.mark.slow
def test_the_two_waits_at_the_exit_take_end_seconds_together(sleeping, monkeypatch):
    sleeping.answers.clear()
    monkeypatch.setattr(wake_urls, "END_SECONDS", 2.0)
    monkeypatch.setattr(wake_urls, "_waited_at_exit", 0.0)
    wake_urls.post_soon()
    began = time.monotonic()
    wake_urls._flush_at_exit()
    middle = time.monotonic()
    wake_urls._flush_at_exit()
    assert middle - began >= 2.0
    assert time.monotonic() - middle < 1.5


def test_the_middleware_of_the_docs_answers_once_it_is_posted(sleeping, rf):
    code: dict = {}
    exec(snippet("how-to/serverless.md", "wake_before_response"), code)

    def view(request):
        add.enqueue(1)
        return "response"

    assert code["wake_before_response"](view)(rf.get("/")) == "response"
    assert len(sleeping.asked) == 1
