from __future__ import annotations

import json
import os
import re
import time
from io import StringIO

import pytest

from pgonly_django.database import wake_urls
from pgonly_django.events import subscribe
from pgonly_django.exceptions import OptionError
from pgonly_django.exposition import exposition
from pgonly_django.management.commands import runworker
from pgonly_django.worker.health import health as module
from pgonly_django.worker.health.health import METRICS, Health, HeartbeatFile
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import WorkerState
from tests.waiting import wait_for
from tests.worker.health.statuses import seen, status
from tests.worker.health.test_server import ask, free_port, in_thread

SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)(\{(?P<label>[a-z]+)="(?P<value>(?:[^"\\\n]|\\["\\n])*)"\})? (?P<number>[-0-9.e+]+)'
)


def test_without_port_and_file_there_is_nothing():
    with Health() as health:
        assert not health.is_on
        assert (health.sockets(), health.next_deadline()) == ({}, float("inf"))
    with Health("127.0.0.1", free_port()) as health:
        assert health.next_deadline() == float("inf")


def test_a_file_that_cannot_be_written_leaves_no_port_open(tmp_path):
    port = free_port()
    with pytest.raises(OptionError):
        Health("127.0.0.1", port, str(tmp_path))
    Health("127.0.0.1", port).close()


def test_a_forked_child_forgets_and_its_parent_goes_on(tmp_path):
    path = tmp_path / "alive"
    with in_thread(Health("127.0.0.1", free_port(), str(path))) as health:
        pid = os.fork()
        if not pid:
            health.forget()
            os._exit(0)
        os.waitpid(pid, 0)
        assert path.exists()
        assert ask(health, "GET", "/live")[0] == 200


@pytest.mark.parametrize(("text", "is_said"), [("hello", True), ("70000", True), ("", False), ("0", False)])
def test_a_variable_that_names_no_port_is_said(text, is_said, monkeypatch):
    monkeypatch.setenv("PORT", text)
    command = runworker.Command(stderr=StringIO())
    command._owns_process = True
    with command._open_health(WorkerOptions()) as health:
        assert not health.is_on
    told = command.stderr.getvalue()
    assert (f"No health port: $PORT is {text!r}, and a port is a number from 1 to 65535." in told) == is_said


# What each path answers.


def answer(statuses, path, method="GET"):
    health = Health()
    health.statuses = lambda: statuses
    response = health.respond(method, path)
    return response.status, json.loads(response.body)


@pytest.mark.parametrize("path", ["/", "/live"])
def test_live_while_every_loop_turns_whatever_its_state(path):
    code, facts = answer(seen(*(status(state, state, running=2) for state in WorkerState)), path)
    assert (code, facts["live"]) == (200, True)
    states = ["starting", "ready", "asleep", "away", "stopping"]
    assert [(each["name"], each["state"], each["running"]) for each in facts["workers"]] == [
        (state, state, 2) for state in states
    ]
    assert facts["workers"][0]["turned_seconds_ago"] < 60
    assert "turned_at" not in facts["workers"][0]


def test_one_loop_that_does_not_turn_is_not_live():
    code, facts = answer(seen(status("a"), status("b", stalled=True)), "/live")
    assert code == 503
    assert facts["reason"].startswith("The main loop of b has not turned for 1 min 3")


def test_before_there_is_a_worker_it_lives_and_is_not_ready():
    assert answer(seen(), "/live")[0] == 200
    assert answer(seen(), "/ready") == (503, {"ready": False, "reason": "Starting.", "workers": {}})


@pytest.mark.parametrize("state", ["ready", "asleep"])
def test_one_worker_that_serves_is_enough_to_be_ready(state):
    statuses = seen(status("a", WorkerState.AWAY), status("b", WorkerState(state)), starting=1)
    assert answer(statuses, "/ready") == (
        200,
        {"ready": True, "workers": {"away": 1, state: 1, "starting": 1}},
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: seen(starting=2), "Starting."),
        (lambda: seen(status(state=WorkerState.STARTING), status(state=WorkerState.STOPPING)), "Starting."),
        (lambda: seen(status(state=WorkerState.STOPPING)), "Stopping."),
        (lambda: seen(status(state=WorkerState.AWAY)), "PostgreSQL does not answer."),
        (lambda: seen(status(), is_stopping=True), "Stopping."),
        (lambda: seen(status(stalled=True)), "The main loop of w has not turned for "),
    ],
)
def test_not_ready_with_its_reason(make, reason):
    code, facts = answer(make(), "/ready")
    assert (code, facts["ready"]) == (503, False)
    assert facts["reason"].startswith(reason)


def test_busy_while_jobs_run_anywhere():
    assert answer(seen(status(), status(running=3)), "/busy") == (200, {"busy": True, "running": 3})
    assert answer(seen(status(), status()), "/busy") == (503, {"busy": False, "running": 0})


def test_other_paths_and_methods_say_what_there_is():
    assert answer(seen(), "/health") == (
        404, {"error": "There is no /health here. Known are: /, /busy, /live, /metrics, /ready, /wake"},
    )  # fmt: skip
    assert answer(seen(), "/live", "DELETE") == (405, {"error": "/live takes GET, HEAD."})
    assert answer(seen(), "/wake") == (405, {"error": "/wake takes POST."})
    assert answer(seen(), "/ready", "HEAD")[0] == 503


def post(authorization, woken):
    health = Health()
    health.wake = lambda: woken.append(1)
    return health.respond("POST", "/wake", authorization)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_valid_token_wakes(scheme):
    woken = []
    response = post(f"{scheme} {wake_urls.token()}", woken)
    assert (response.status, json.loads(response.body), woken) == (202, {"woken": True}, [1])


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer wake:x:y", "Basic {token}", "{token}", "Bearer é"],
)
def test_nothing_else_wakes(authorization):
    woken = []
    response = post(authorization.format(token=wake_urls.token()), woken)
    assert (response.status, response.headers["WWW-Authenticate"], woken) == (401, "Bearer", [])
    assert "SECRET_KEY" in json.loads(response.body)["error"]


# The heartbeat file.


AN_HOUR_AGO = time.time() - 3600


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr(module, "TOUCH_SECONDS", 0.02)


def age(path):
    os.utime(path, (AN_HOUR_AGO, AN_HOUR_AGO))


def is_fresh(path):
    return path.exists() and path.stat().st_mtime > AN_HOUR_AGO + 60


def test_it_is_touched_while_the_loops_turn_and_removed_at_the_end(always_due, tmp_path):
    path = tmp_path / "alive"
    path.write_text("kept")
    health = Health(file=str(path))
    assert (is_fresh(path), path.read_text()) == (True, "kept")
    with in_thread(health):
        age(path)
        wait_for(lambda: is_fresh(path))
        health.statuses = lambda: seen(status(), status(stalled=True))
        deadline = health.file.due_at
        wait_for(lambda: health.file.due_at > deadline)  # one that was under way is over
        age(path)
        deadline = health.file.due_at
        wait_for(lambda: health.file.due_at > deadline)
        assert not is_fresh(path)
        health.statuses = lambda: seen(status())
        wait_for(lambda: is_fresh(path))
    assert not path.exists()


def test_one_that_cannot_be_written_is_a_clear_error_at_the_start(tmp_path):
    with pytest.raises(OptionError, match=r"--heartbeat-file .*/no/alive cannot be written: No such file"):
        HeartbeatFile(str(tmp_path / "no" / "alive"))
    with pytest.raises(OptionError, match="Is a directory"):
        HeartbeatFile(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OptionError, match="cannot be written"):  # and not for ever
        HeartbeatFile(str(tmp_path / "pipe"))


def test_later_failures_are_logged_once_and_tried_again(tmp_path):
    path = tmp_path / "folder" / "alive"
    path.parent.mkdir()
    file, said = HeartbeatFile(str(path)), []
    stop = subscribe(lambda name, facts: said.append(name))
    path.unlink()
    path.parent.rmdir()
    for _ in range(3):
        file.touch(is_live=True)
    assert said == ["worker.heartbeat_file_failed"]
    path.parent.mkdir()
    file.touch(is_live=True)
    assert path.exists()
    stop()


def test_another_current_directory_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    health = Health(file="alive")
    monkeypatch.chdir("/")
    health.close()
    assert not (tmp_path / "alive").exists()


# The metrics.


def samples(statuses):
    """By name and label value. Every line is a comment of its family or matches the format."""
    found, declared = {}, set()
    for line in exposition(METRICS, statuses).splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            if word == "TYPE":
                assert name not in declared
                assert rest == ("counter" if name.endswith("_total") else "gauge")
                declared.add(name)
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match["name"] in declared
        found[match["name"], match["value"]] = float(match["number"])
    return found


def test_every_worker_has_its_numbers():
    first = status(
        "a", pid=11, threads=4, running=2, jobs_done=7, jobs_failed=1, jobs_released=3, stuck_slots=1
    )
    second = status("b", WorkerState.ASLEEP, pid=12, idle_since=time.monotonic() - 100)
    found = samples(seen(first, second, starting=1, replaced=5, memory={11: 1_000_000}))
    assert found["pgonly_workers", "ready"] == found["pgonly_workers", "asleep"] == 1
    assert found["pgonly_workers", "starting"] == 1
    assert found["pgonly_workers", "away"] == 0
    assert found["pgonly_workers_replaced_total", None] == 5
    of_first = {name: number for (name, worker), number in found.items() if worker == "a"}
    assert of_first.pop("pgonly_worker_last_turn_age_seconds") < 60
    assert of_first == {
        "pgonly_worker_threads": 4,
        "pgonly_worker_running_jobs": 2,
        "pgonly_worker_jobs_done_total": 7,
        "pgonly_worker_jobs_failed_total": 1,
        "pgonly_worker_jobs_released_total": 3,
        "pgonly_worker_stuck_slots": 1,
        "pgonly_worker_idle_seconds": 0,
        "pgonly_worker_resident_memory_bytes": 1_000_000,
    }
    assert 99 < found["pgonly_worker_idle_seconds", "b"] < 200
    assert ("pgonly_worker_resident_memory_bytes", "b") not in found


def test_a_name_with_quotes_breaks_no_line():
    found = samples(seen(status('a"} 1\n\\')))
    assert found["pgonly_worker_threads", r"a\"} 1\n\\"] == 8


def test_without_a_worker_it_is_valid():
    assert samples(seen())["pgonly_workers", "ready"] == 0


def test_the_library_of_prometheus_reads_it():
    parser = pytest.importorskip("prometheus_client.parser")
    statuses = seen(status('a"} 1\n\\', pid=11), status("b"), memory={11: 5})
    found = {
        family.name: family for family in parser.text_string_to_metric_families(exposition(METRICS, statuses))
    }
    named = {each.name.removesuffix("_total"): (each.kind, set(each.labels)) for each in METRICS}
    assert set(found) == set(named)
    for name, family in found.items():
        kind, labels = named[name]
        assert family.type == kind
        assert all(set(sample.labels) == labels for sample in family.samples)
    workers = {sample.labels["worker"] for sample in found["pgonly_worker_threads"].samples}
    assert workers == {'a"} 1\n\\', "b"}
