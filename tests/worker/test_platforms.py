from __future__ import annotations

import pytest

from pgonly_django.worker.options import WorkerOptions, from_environment
from pgonly_django.worker.platforms import default_grace_seconds


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
