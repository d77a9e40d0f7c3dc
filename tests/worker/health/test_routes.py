from __future__ import annotations

import json

import pytest

from pgonly_django.worker.health.http import Request
from pgonly_django.worker.health.routes import respond, routes_of
from pgonly_django.worker.status import WorkerState
from tests.worker.health.statuses import snapshot, status


def ask(seen, path, method="GET"):
    response = respond(routes_of(lambda: seen), Request(method, path))
    return response.status, json.loads(response.body)


@pytest.mark.parametrize("path", ["/", "/live"])
def test_live_while_every_loop_turns(path):
    code, facts = ask(snapshot(status("a"), status("b", running=2)), path)
    assert (code, facts["live"]) == (200, True)
    assert [(each["name"], each["state"], each["running"]) for each in facts["workers"]] == [
        ("a", "ready", 0), ("b", "ready", 2),
    ]  # fmt: skip
    assert facts["workers"][0]["turned_seconds_ago"] < 60
    assert "turned_at" not in facts["workers"][0]


def test_one_loop_that_does_not_turn_is_not_live():
    code, facts = ask(snapshot(status("a"), status("b", stalled=True)), "/live")
    assert code == 503
    assert facts["reason"].startswith("The main loop of b has not turned for 1 min 3")


@pytest.mark.parametrize("state", ["starting", "away", "stopping", "ready", "asleep"])
def test_whatever_the_state_a_loop_that_turns_is_live(state):
    assert ask(snapshot(status(state=WorkerState(state))), "/live")[0] == 200


def test_before_there_is_a_worker_it_lives_and_is_not_ready():
    assert ask(snapshot(), "/live")[0] == 200
    assert ask(snapshot(), "/ready") == (503, {"ready": False, "reason": "Starting.", "workers": {}})


@pytest.mark.parametrize("state", ["ready", "asleep"])
def test_one_worker_that_serves_is_enough_to_be_ready(state):
    seen = snapshot(status("a", WorkerState.AWAY), status("b", WorkerState(state)), starting=1)
    assert ask(seen, "/ready") == (200, {"ready": True, "workers": {"away": 1, state: 1, "starting": 1}})


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (lambda: snapshot(starting=2), "Starting."),
        (
            lambda: snapshot(status(state=WorkerState.STARTING), status(state=WorkerState.STOPPING)),
            "Starting.",
        ),
        (lambda: snapshot(status(state=WorkerState.STOPPING)), "Stopping."),
        (lambda: snapshot(status(state=WorkerState.AWAY)), "PostgreSQL does not answer."),
        (lambda: snapshot(status(), is_stopping=True), "Stopping."),
        (lambda: snapshot(status(stalled=True)), "The main loop of w has not turned for "),
    ],
)
def test_not_ready_with_its_reason(seen, reason):
    code, facts = ask(seen(), "/ready")
    assert (code, facts["ready"]) == (503, False)
    assert facts["reason"].startswith(reason)


def test_busy_while_jobs_run_anywhere():
    assert ask(snapshot(status(), status(running=3)), "/busy") == (200, {"busy": True, "running": 3})
    assert ask(snapshot(status(), status()), "/busy") == (503, {"busy": False, "running": 0})


def test_other_paths_and_methods_say_what_there_is():
    assert ask(snapshot(), "/health") == (
        404, {"error": "There is no /health here. There is: /, /busy, /live, /metrics, /ready"},
    )  # fmt: skip
    assert ask(snapshot(), "/live", "DELETE") == (405, {"error": "/live takes GET, HEAD."})
    assert ask(snapshot(), "/ready", "HEAD")[0] == 503
