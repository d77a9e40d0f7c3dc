"""A tick inside real web servers, which kill, stop and lose their clients."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from django.urls import reverse

from benchmarks.servers import free_port
from pgonly_django.models import State, Worker
from pgonly_django.worker.tick.views import token
from tests import jobs
from tests.children import ROOT, environment
from tests.jobs import timed
from tests.waiting import wait_for

pytestmark = pytest.mark.process

GUNICORN = ("gunicorn", "--no-control-socket", "--workers", "1")
THREADED = (*GUNICORN, "--threads", "4")
ASGI_WORKER = (*GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker")
UVICORN = ("uvicorn", "--lifespan", "off", "--log-level", "warning")


class WebServer:
    def __init__(self, directory, command):
        self.port = free_port()
        where = (
            ["--port", str(self.port)] if command[0] == "uvicorn" else ["--bind", f"127.0.0.1:{self.port}"]
        )
        app = "tests.apps_served:asgi" if "uvicorn" in "".join(command) else "tests.apps_served:wsgi"
        env = environment(TEST_LEASE_SECONDS="60")
        self.log = directory / "server.log"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, *where, app],
                cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def get(self, seconds=60.0, path=None, tick_seconds=25):
        url = path or reverse("pgonly:tick", args=[token()]) + f"?seconds={tick_seconds}"
        return httpx.get(f"http://127.0.0.1:{self.port}{url}", timeout=seconds)

    def is_up(self):
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            return self.get(path=reverse("pgonly:tick")).status_code == 403

    def ask_in_thread(self, answers=None, tick_seconds=25):
        def ask():
            with contextlib.suppress(httpx.HTTPError):
                response = self.get(tick_seconds=tick_seconds)
                if answers is not None:
                    answers.append(response.json())

        thread = threading.Thread(target=ask)
        thread.start()
        return thread

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def serve(transactional_db, tmp_path):
    servers = []

    def start(*command):
        server = WebServer(tmp_path, command)
        servers.append(server)
        wait_for(server.is_up, what="the server to answer")
        return server

    yield start
    for server in servers:
        server.end()


def ask_and_hold(server, marks, answers=None, tick_seconds=25):
    """The thread of a request, and the result of the job that its tick runs."""
    result = jobs.hold_on.enqueue("k")
    thread = server.ask_in_thread(answers, tick_seconds)
    wait_for(lambda: "k:started" in marks())
    return thread, result


def is_given_back(result):
    job = result.job
    return (job.state, job.attempt, job.crashes, job.interruptions) == (State.READY, 0, 0, 1)


@pytest.mark.slow
def test_gunicorn_that_kills_the_request_costs_the_job_nothing(serve, marks):
    server = serve(*GUNICORN, "--timeout", "3")
    result = jobs.hold_on.enqueue("k")
    thread = server.ask_in_thread()
    wait_for(lambda: is_given_back(result), what="the job to be given back")
    thread.join(30)
    result.cancel()
    wait_for(server.is_up)
    assert server.get().json()["done"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", [GUNICORN, THREADED])
def test_gunicorn_that_is_stopped_at_once_gives_the_job_back(serve, marks, command):
    server = serve(*command)
    thread, result = ask_and_hold(server, marks)
    server.process.send_signal(signal.SIGQUIT)
    wait_for(lambda: is_given_back(result), seconds=10.0, what="the job to be given back")
    server.process.wait(30)
    thread.join(30)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "command",
    [
        (*GUNICORN, "--graceful-timeout", "3"),
        (*THREADED, "--graceful-timeout", "3"),
        (*ASGI_WORKER, "--graceful-timeout", "3"),
        (*UVICORN, "--timeout-graceful-shutdown", "3"),
    ],
    ids=["gunicorn", "gunicorn with threads", "gunicorn with uvicorn's worker", "uvicorn"],
)
def test_a_server_that_is_stopped_with_little_patience_gives_the_job_back_in_time(serve, marks, command):
    server = serve(*command)
    result = timed.pay_in_turn.enqueue("k", 1, 60)
    answers = []
    thread = server.ask_in_thread(answers)
    wait_for(lambda: "k:0" in marks(), what="the step to begin")
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)
    assert is_given_back(result)
    thread.join(30)
    assert answers[0]["released"] == 1


@pytest.mark.slow
def test_a_tick_that_is_the_last_request_of_a_gunicorn_worker_runs_its_jobs(serve):
    server = serve(*GUNICORN, "--max-requests", "1")
    jobs.add.enqueue(1)
    assert server.get().json()["done"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", [GUNICORN, UVICORN])
def test_a_server_that_is_stopped_lets_the_tick_end(serve, marks, command):
    server = serve(*command)
    answers = []
    thread, result = ask_and_hold(server, marks, answers, tick_seconds=10)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)
    thread.join(30)
    assert is_given_back(result)
    assert answers[0]["released"] == 1


@pytest.mark.slow
def test_a_client_that_has_gone_ends_the_tick_and_blocks_no_other_request(serve, marks):
    server = serve(*UVICORN)
    result = jobs.hold_on.enqueue("k")
    with pytest.raises(httpx.ReadTimeout):
        server.get(seconds=3.0)
    assert server.get(seconds=5.0, path=reverse("pgonly:tick")).status_code == 403
    # Long before the tick would end by itself.
    wait_for(lambda: is_given_back(result), seconds=10.0, what="the job to be given back")
    assert wait_for(lambda: not Worker.objects.filter(stopped_at=None).exists())


def test_two_processes_tick_at_once_and_each_step_is_paid_once(serve, marks):
    server = serve(*GUNICORN, "--workers", "2", "--preload")
    results = [timed.pay_in_turn.enqueue(key, 15, 0.1) for key in "ab"]
    answers = []
    for thread in [server.ask_in_thread(answers) for _ in range(2)]:
        thread.join(60)
    while any(each.job.state == State.READY for each in results):
        answers.append(server.get().json())
    assert sorted(marks()) == sorted(f"{key}:{n}" for key in "ab" for n in range(15))
    assert sum(answer.get("done", 0) for answer in answers) == 2
