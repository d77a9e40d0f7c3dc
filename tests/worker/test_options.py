from __future__ import annotations

import pytest

from pgonly_django.exceptions import OptionError
from pgonly_django.worker.options import WorkerOptions, default_grace_seconds, from_environment, platform_port


@pytest.mark.parametrize("name", ["a\udcff", "a\0b"])
def test_names_that_postgres_cannot_store_are_refused(name):
    with pytest.raises(OptionError, match="--name must be text in UTF-8, 1 to 128 characters long, got 'a"):
        WorkerOptions(name=name)
    with pytest.raises(OptionError, match="--queues must be names in UTF-8, got"):
        WorkerOptions(queues=("good", name))
    assert WorkerOptions(name="schön", queues=("läuft",)).name == "schön"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_health_port_is_a_port(port):
    with pytest.raises(OptionError, match=f"--health-port must be from 0 to 65535, got {port}."):
        WorkerOptions(health_port=port)


def test_a_host_and_a_file_that_are_empty_are_refused():
    with pytest.raises(OptionError, match="--health-host must be an address, such as 0"):
        WorkerOptions(health_host="")
    with pytest.raises(OptionError, match="--heartbeat-file must be the path of a file, got ''"):
        WorkerOptions(heartbeat_file="")


def test_the_health_options_have_variables():
    environ = {
        "PGONLY_WORKER_HEALTH_PORT": "0",
        "PGONLY_WORKER_HEALTH_HOST": "::",
        "PGONLY_WORKER_HEARTBEAT_FILE": "/run/alive",
    }
    assert from_environment(environ) == {
        "health_port": 0,
        "health_host": "::",
        "heartbeat_file": "/run/alive",
    }
    with pytest.raises(
        OptionError, match="PGONLY_WORKER_HEALTH_PORT must be a port, or 0 for none, got 'tcp:"
    ):
        from_environment({"PGONLY_WORKER_HEALTH_PORT": "tcp://10.0.0.1:80"})


@pytest.mark.parametrize(
    ("text", "port"),
    [("8080", 8080), ("", None), ("0", None), ("65536", None), ("tcp://10.0.0.1:80", None), ("\u0663", None),
     ("9" * 5000, None)],
)  # fmt: skip
def test_the_port_of_the_platform_counts_where_it_is_a_port(text, port):
    assert platform_port({"PORT": text}) == port
    assert platform_port({}) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"processes": 0}, "--processes must be from 1 to 128, got 0."),
        ({"start_method": "vfork"}, "--start-method must be one of auto, fork, spawn, got 'vfork'."),
        ({"max_jobs_per_process": 0}, "--max-jobs-per-process must be 1 or more, got 0."),
        ({"max_memory_mb": float("nan")}, "--max-memory-mb must be more than 0, got nan."),
        (
            {"processes": 2, "max_jobs": 5},
            "To replace each process after so many jobs: --max-jobs-per-process.",
        ),
        (
            {"processes": 12, "name": "x" * 126},
            "--name must be at most 125 characters long, for -12, got 'xx",
        ),
    ],
)
def test_what_several_processes_cannot_have_is_refused(options, words):
    with pytest.raises(OptionError) as caught:
        WorkerOptions(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize("seconds", [0.5, 0, -1, float("nan")])
def test_a_worker_stays_awake_for_a_second_at_least(seconds):
    with pytest.raises(OptionError, match=f"--sleep-after must be 1 or more, got {seconds}."):
        WorkerOptions(sleep_after=seconds)


def test_sleep_after_has_a_variable():
    assert from_environment({"PGONLY_WORKER_SLEEP_AFTER": "30"}) == {"sleep_after": 30.0}
    with pytest.raises(
        OptionError, match="PGONLY_WORKER_SLEEP_AFTER must be a number of seconds, got 'soon'"
    ):
        from_environment({"PGONLY_WORKER_SLEEP_AFTER": "soon"})


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 20.0),
        ({"K_SERVICE": "site"}, 8.0),
        ({"CLOUD_RUN_JOB": "work"}, 8.0),
        ({"FLY_MACHINE_ID": "148e"}, 4.0),
        ({"K_SERVICE": ""}, 20.0),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 20.0),
    ],
)
def test_the_default_grace_is_below_the_limit_of_the_platform(environ, seconds):
    assert default_grace_seconds(environ) == seconds


def test_what_is_said_wins_over_the_platform(monkeypatch):
    monkeypatch.setenv("K_SERVICE", "site")
    assert WorkerOptions().grace_seconds == 8.0
    assert WorkerOptions(grace_seconds=25.0).grace_seconds == 25.0
    assert WorkerOptions(**from_environment({"PGONLY_WORKER_GRACE_SECONDS": "3"})).grace_seconds == 3.0
