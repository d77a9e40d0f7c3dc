"""Jobs for `manage.py pgonly_jobs`, and what it answers."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.core.management import CommandError
from django.utils import timezone

from pgonly_django.models import State
from tests.queue.rows import make

HOUR = timedelta(hours=1)
ERROR = {
    "outcome": "failed",
    "exception": "builtins.ValueError",
    "message": "why",
    "traceback": "Traceback X",
}


def failed(**facts):
    defaults = {"state": State.FAILED, "finished_at": timezone.now(), "attempt": 4, "errors": [ERROR]}
    return make(**{"task": "tests.jobs.redriving.screen", **defaults, **facts})


def as_json(jobs, *arguments):
    return json.loads(jobs(*arguments, "--json"))


def refused(jobs, *arguments):
    with pytest.raises(CommandError) as caught:
        jobs(*arguments)
    return str(caught.value), caught.value.returncode
