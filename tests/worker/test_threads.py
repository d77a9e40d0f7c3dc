"""The threads of a worker start when its queues are declared."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from django.db import OperationalError, connections

from pgonly_django.worker import housekeeper
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode
from tests import jobs


def test_a_start_waits_for_a_database_that_goes_away_meanwhile(work, monkeypatch, other, settings):
    """Its connection is lost while it declares its queues."""
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"ai": {"max_running": 8}}}
    tries, declare = [], housekeeper.declare

    def lose_the_first(alias):
        tries.append(alias)
        if len(tries) == 1:
            connections[alias].ensure_connection()
            pid = connections[alias].connection.info.backend_pid
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        return declare(alias)

    monkeypatch.setattr(housekeeper, "declare", lose_the_first)
    monkeypatch.setattr(housekeeper, "TRY_SECONDS", 0.01)
    result = jobs.add.enqueue(2, b=3)
    work()
    assert result.wait(1).return_value == 5
    assert len(tries) == 2


def test_a_start_gives_up_on_a_database_that_stays_away_and_when_it_is_asked_to_stop(work, monkeypatch):
    monkeypatch.setattr(housekeeper, "declare", Mock(side_effect=OperationalError("unavailable")))
    stopped = WorkerLoop(WorkerOptions(threads=1))
    stopped.stop()
    assert stopped.run() == ExitCode.STOPPED
    monkeypatch.setattr(housekeeper, "START_SECONDS", 0.0)
    with pytest.raises(OperationalError):
        work()
