"""Who asks has an answer in time, and many who ask at once cause one reading."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections

from pgonly_django.monitoring.in_time import OF_THE_SITE, stats_in_time
from pgonly_django.monitoring.stats import PARTS
from tests import activity
from tests.aliases import alias
from tests.queue.rows import make
from tests.waiting import wait_for

ALL = tuple(PARTS)


def address(server):
    return {"HOST": "127.0.0.1", "PORT": server.getsockname()[1]}


@pytest.fixture
def silent(any_database):
    """An alias of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server, alias("silent", **address(server)):
        yield "silent"
        wait_for(lambda: not readers())


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "pgonly-stats"]


def read(*aliases, seconds=20.0, parts=ALL):
    return stats_in_time(aliases or ["default"], parts, seconds)


@pytest.mark.django_db(transaction=True)
def test_a_reading_has_its_own_connection_and_closes_it(other):
    make(queue="ai")
    connection.close()
    (found,) = read()
    assert found.missing == {}
    assert found.queues[0].name == "ai"
    assert connection.connection is None
    before = len(activity.pids(on=other))
    read()
    wait_for(lambda: len(activity.pids(on=other)) <= before)


@pytest.mark.django_db(transaction=True)
def test_the_settings_and_the_queries_of_the_site_are_left_as_they_are(settings):
    settings.DEBUG = True
    connection.queries_log.clear()
    options = dict(connections.settings["default"]["OPTIONS"])
    read()
    assert connections.settings["default"]["OPTIONS"] == options
    assert connection.queries == []


@pytest.mark.django_db
def test_inside_a_transaction_it_sees_what_that_has_written():
    make(queue="in a TestCase")
    (found,) = read()
    assert [queue.name for queue in found.queues] == ["in a TestCase"]
    assert not readers()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_silent_database_takes_no_other_one_away_and_no_more_than_the_time(silent):
    began = time.monotonic()
    (found,) = read(silent, seconds=0.5)
    assert 0.4 < time.monotonic() - began < 5
    assert (found.is_up, set(found.missing)) == (False, set(PARTS))
    default, other = read("default", silent)
    assert default.is_up
    assert default.missing == {}
    assert not other.is_up
    assert set(other.missing) == set(PARTS) - set(OF_THE_SITE)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_what_was_read_before_the_time_was_over_is_there(other, monkeypatch):
    monkeypatch.setattr("pgonly_django.monitoring.stats.PART_LIMIT", timedelta(minutes=1))
    with other.transaction():
        other.execute("LOCK TABLE pgonly_session")
        (found,) = read(seconds=2, parts=("states", "sessions"))
        assert found.states is not None
        assert found.missing == {"sessions": "There was no time left for it."}
    wait_for(lambda: not readers())


@pytest.mark.django_db(transaction=True)
def test_twenty_who_ask_at_once_cause_one_reading(other):
    most = 0
    with other.transaction(), ThreadPoolExecutor(20) as threads:
        other.execute("LOCK TABLE pgonly_budget")
        asked = [threads.submit(read, parts=("states", "budgets")) for _ in range(20)]
        while not all(each.done() for each in asked):
            most = max(most, len(readers()))
            time.sleep(0.005)
    found = [each.result()[0] for each in asked]
    assert most == 1
    assert all(each.states is not None and "budgets" in each.missing for each in found)
    assert len({each.seconds for each in found}) <= 3  # one, unless some asked when it was over


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_in_the_middle_of_a_reading_reads_by_itself(other):
    """A server that forks its workers late: the thread that reads is not in the child."""
    with other.transaction():
        other.execute("LOCK TABLE pgonly_budget")
        reading = threading.Thread(target=read, kwargs={"parts": ("budgets",)})
        reading.start()
        wait_for(readers)
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
            pid = os.fork()
        if pid == 0:
            try:
                code = 0 if read(parts=("states",), seconds=20)[0].states is not None else 1
            except BaseException:
                code = 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    reading.join()
