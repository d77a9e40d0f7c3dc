"""Before, without and at the end of Sentry's client."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

import pytest
import sentry_sdk
from sentry_sdk import integrations
from sentry_sdk import scope as scopes

from pgonly_django.monitoring import sentry
from pgonly_django.monitoring.sentry import PgonlyIntegration
from tests.jobs import add, reported
from tests.monitoring.sentry.conftest import InMemory, error_of


@pytest.fixture
def nothing_set_up(start, monkeypatch):
    """For Sentry this process begins anew, as far as Dedupe and this integration go."""
    start(PgonlyIntegration())  # the rest is set up once, and that stays so
    ours = {"dedupe", PgonlyIntegration.identifier}
    for name in ("_processed_integrations", "_installed_integrations"):
        monkeypatch.setattr(integrations, name, getattr(integrations, name) - ours)
    monkeypatch.setattr(scopes, "global_event_processors", [])


@pytest.mark.usefixtures("nothing_set_up")
@pytest.mark.parametrize("task", [reported.fail_with, reported.fail_async])
def test_an_earlier_init_without_the_integration_takes_no_event_away(start, work, task):
    start()
    sent = start(PgonlyIntegration())
    task.enqueue(7)
    work()
    assert [error_of(event) for event in sent.events] == [("ValueError", "7")]


def test_without_a_client_nothing_is_carried_and_nothing_is_said(start, work):
    start(PgonlyIntegration())
    sentry_sdk.get_global_scope().set_client(None)
    result = add.enqueue(1)
    work()
    assert result.job.metadata is None


def test_what_waits_is_sent_when_the_worker_stops(sent, work, monkeypatch):
    flushed = []
    monkeypatch.setattr(InMemory, "flush", lambda self, *args, **kwargs: flushed.append(args))
    work()
    assert flushed


@pytest.mark.slow
def test_it_can_be_set_up_in_the_settings(tmp_path):
    (tmp_path / "early_settings.py").write_text(
        "import sentry_sdk\n"
        "from pgonly_django.monitoring.sentry import PgonlyIntegration\n"
        "from tests.settings import *\n"
        "sentry_sdk.init(integrations=[PgonlyIntegration()])\n"
    )
    code = "import django; django.setup(); from tests.jobs import add; print(add.module_path)"
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "early_settings"}
    env["PYTHONPATH"] = f"{tmp_path}:{env.get('PYTHONPATH', '')}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.stdout == "tests.jobs.add\n", done.stderr


def test_a_newer_major_version_of_sentry_is_refused_at_the_import(monkeypatch):
    monkeypatch.delattr(sentry_sdk, "start_transaction")
    with pytest.raises(ImportError, match="pip install 'sentry-sdk"):
        runpy.run_path(sentry.__file__)
