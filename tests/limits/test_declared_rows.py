"""While two versions of the code run, the declarations of the process that started last stand."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Budget, Limiter, Queue
from pgonly_django.models.declared import STALE_AFTER
from tests.children import OF_WORKERS, ROOT, environment

pytestmark = [pytest.mark.process, pytest.mark.django_db(transaction=True)]

# What each kind of row is asked for, by the column that differs.
ROWS = {"limiter": (Limiter, "concurrent"), "budget": (Budget, "usd"), "queue": (Queue, "max_running")}


class Process:
    """A process of the code that limits all of them to `limit`."""

    def __init__(self, limit):
        pgonly = {
            "LIMITERS": {"x": {"concurrent": limit}},
            "BUDGETS": {"x": {"usd": limit}},
            "QUEUES": {"x": {"max_running": limit}},
        }
        command = [sys.executable, "-m", "tests.limits.declarer", json.dumps(pgonly)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment(OF_WORKERS), **pipes)
        assert self.process.stdout.readline() == "\n"

    def does(self, command):
        self.process.stdin.write(f"{command}\n")
        assert self.process.stdout.readline() == "\n"

    def uses_all(self):
        """A minute or more after it did so before."""
        for command in ("later", *ROWS):
            self.does(command)

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.process.stdout.close()


@pytest.fixture
def start():
    processes = []

    def start(limit):
        processes.append(Process(limit))
        return processes[-1]

    yield start
    for process in processes:
        process.end()


def limits():
    """What the rows say."""
    found = [model.objects.values_list(column, flat=True).get(name="x") for model, column in ROWS.values()]
    return [int(limit) for limit in found]


ALL_1, ALL_5, ALL_8 = ([limit] * len(ROWS) for limit in (1, 5, 8))


@pytest.mark.slow
def test_an_old_process_that_uses_a_row_first_after_a_new_one_changes_nothing(start):
    old, new = start(1), start(8)
    new.uses_all()
    old.uses_all()
    assert limits() == ALL_8


@pytest.mark.slow
def test_a_newer_process_of_the_same_code_makes_its_declaration_newer(start):
    start(8).uses_all()
    old = start(1)
    start(8).uses_all()
    old.uses_all()
    assert limits() == ALL_8


@pytest.mark.slow
def test_a_process_that_is_rolled_back_to_has_started_last(start):
    for limit in (1, 8, 1):
        start(limit).uses_all()
        assert limits() == [limit] * len(ROWS)


@pytest.mark.slow
def test_of_an_old_process_that_was_started_again_nothing_stays_once_it_has_ended(start):
    new = start(8)
    new.uses_all()
    start(1).uses_all()
    new.uses_all()
    assert limits() == ALL_1  # it may be a rollback
    for model, _ in ROWS.values():  # as if it had ended a while ago
        model.objects.update(declared_at=timezone.now() - STALE_AFTER - timedelta(minutes=1))
    new.uses_all()
    assert limits() == ALL_8


@pytest.mark.slow
def test_what_a_person_has_edited_stays_and_a_reset_is_to_the_newest(start):
    old, new = start(1), start(8)
    new.uses_all()
    for model, column in ROWS.values():
        model.objects.filter(name="x").edit(**{column: 5})
    old.uses_all()
    new.uses_all()
    assert limits() == ALL_5
    for model, _ in ROWS.values():
        model.objects.filter(name="x").reset()
    assert limits() == ALL_8


@pytest.mark.slow
def test_a_process_that_begins_to_declare_something_else_is_heard_at_once(start):
    old = start(1)
    old.does("budget 5")
    start(1).does("budget 5")
    old.does("budget 7")
    assert Budget.objects.get().usd == 7
