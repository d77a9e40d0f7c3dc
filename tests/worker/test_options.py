from __future__ import annotations

import pytest
from django.core.management import CommandError

from pgonly_django.exceptions import OptionError
from pgonly_django.management.commands import runworker
from pgonly_django.worker.options import (
    WorkerOptions,
    default_grace_seconds,
    from_environment,
    platform_port,
    refuse_too_little_memory,
    warnings_of,
)


def test_help_lists_the_exit_codes():
    text = " ".join(runworker.Command().create_parser("manage.py", "runworker").format_help().split())
    assert "3 start a fresh process: every slot is held" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a\udcff"}, "--name must be text in UTF-8, 1 to 128 characters long, got 'a"),
        ({"name": "a\0b"}, "--name must be text in UTF-8, 1 to 128 characters long, got 'a"),
        ({"queues": ("good", "a\udcff")}, "--queues must be names in UTF-8, got ('good', 'a"),
        ({"health_port": -1}, "--health-port must be from 0 to 65535, got -1."),
        ({"health_port": 65536}, "--health-port must be from 0 to 65535, got 65536."),
        ({"health_host": ""}, "--health-host must be an address, such as 0.0.0.0, :: or 127.0.0.1, got ''."),
        ({"heartbeat_file": ""}, "--heartbeat-file must be the path of a file, got ''."),
        ({"processes": 0}, "--processes must be from 1 to 128, got 0."),
        ({"start_method": "vfork"}, "--start-method must be one of auto, fork, spawn, got 'vfork'."),
        ({"max_jobs_per_process": 0}, "--max-jobs-per-process must be 1 or more, got 0."),
        ({"max_memory_mb": float("nan")}, "--max-memory-mb must be more than 0, got nan."),
        ({"max_seconds": 0.5}, "--max-seconds must be 1 or more, got 0.5."),
        ({"max_seconds": float("nan")}, "--max-seconds must be 1 or more, got nan."),
        ({"max_seconds": float("inf")}, "--max-seconds must be 1 or more, got inf."),
        ({"sleep_after": 0.5}, "--sleep-after must be 1 or more, got 0.5."),
        ({"sleep_after": float("nan")}, "--sleep-after must be 1 or more, got nan."),
        ({"processes": 2, "max_jobs": 5}, "after a number of jobs: --max-jobs-per-process."),
        ({"processes": 12, "name": "x" * 126}, "--name must be at most 125 characters long, for -12, got 'x"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(OptionError) as caught:
        WorkerOptions(**options)
    assert words in str(caught.value)


def test_names_may_have_letters_of_all_languages():
    assert WorkerOptions(name="schön", queues=("läuft",)).name == "schön"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HEALTH_PORT", "0", 0),
        ("HEALTH_HOST", "::", "::"),
        ("QUEUES", "b, a,b", ("b", "a")),
        ("BURST", "Yes", True),
        ("SLEEP_AFTER", "30", 30.0),
    ],
)
def test_each_option_has_a_variable(name, text, value):
    assert from_environment({f"PGONLY_WORKER_{name}": text}) == {name.lower(): value}
    assert from_environment({f"PGONLY_WORKER_{name}": ""}) == {}


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("HEALTH_PORT", "tcp://10.0.0.1:80", "a port, or 0 for none"),  # made by Kubernetes
        ("SLEEP_AFTER", "soon", "a number of seconds"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(name, text, kind):
    with pytest.raises(OptionError, match=f"PGONLY_WORKER_{name} must be {kind}, got '{text}'"):
        from_environment({f"PGONLY_WORKER_{name}": text})


@pytest.mark.parametrize(
    ("text", "port"),
    [("8080", 8080), ("", None), ("0", None), ("65536", None), ("tcp://10.0.0.1:80", None), ("\u0663", None),
     ("9" * 5000, None)],
)  # fmt: skip
def test_the_port_of_the_platform_counts_where_it_is_a_port(text, port):
    assert platform_port({"PORT": text}) == port
    assert platform_port({}) is None


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [({}, 20.0), ({"K_SERVICE": "site"}, 8.0), ({"FLY_MACHINE_ID": "148e"}, 4.0), ({"K_SERVICE": ""}, 20.0)],
)
def test_the_default_grace_is_below_the_limit_of_the_platform(environ, seconds):
    assert default_grace_seconds(environ) == seconds


def test_what_is_said_wins_over_the_platform(monkeypatch):
    monkeypatch.setenv("K_SERVICE", "site")
    assert WorkerOptions().grace_seconds == 8.0
    assert WorkerOptions(**from_environment({"PGONLY_WORKER_GRACE_SECONDS": "3"})).grace_seconds == 3.0


@pytest.mark.parametrize(
    ("options", "urls", "has_port", "is_warned"),
    [
        ({}, [], False, False),
        ({"sleep_after": 30}, [], False, True),
        ({"sleep_after": 30}, [], True, True),
        ({"sleep_after": 30}, ["https://worker.example.com/wake"], False, True),
        ({"sleep_after": 30}, ["https://worker.example.com/wake"], True, False),
        ({"sleep_after": 30, "burst": True}, [], False, False),
        ({"sleep_after": 30, "poll_seconds": 600}, [], False, False),
    ],
)
def test_a_worker_that_nothing_would_wake_for_a_new_job_says_so(settings, options, urls, has_port, is_warned):
    settings.PGONLY = {"WAKE_URLS": urls}
    warnings = list(warnings_of(WorkerOptions(**options), has_port=has_port))
    assert bool(warnings) is is_warned
    assert all("--poll-seconds" in each for each in warnings)


def test_less_memory_than_the_process_takes_at_its_start_is_refused():
    """Each process would be replaced before its first job."""
    with pytest.raises(
        CommandError, match=r"--max-memory-mb 1 is less than the .* MB that the process takes"
    ):
        refuse_too_little_memory(WorkerOptions(max_memory_mb=1))
    refuse_too_little_memory(WorkerOptions(max_memory_mb=1_000_000))
