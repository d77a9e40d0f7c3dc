"""The tester itself."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import pytest
from django.db import transaction

from pgonly_django.models import Job
from tests.interleaving.conftest import WrongOrderError
from tests.interleaving.scenes import Scene
from tests.queue.rows import make
from tests.sql import sql


class TwoRows(Scene):
    """Each script writes to its own row, or to both."""

    seen: ClassVar[list[str]] = []

    def __init__(self, server):
        super().__init__(server)
        self.rows = [make(queue=self.queue) for _ in range(2)]

    def write(self, number):
        sql("UPDATE pgonly_job SET priority = priority + 1 WHERE id = %s", self.rows[number].pk)

    def first(self, session):
        self.write(0)

    def second(self, session):
        self.write(1)

    def first_too(self, session):
        self.write(0)

    def both(self, session):
        with transaction.atomic():
            self.write(0)
            self.write(1)

    def both_the_other_way(self, session):
        with transaction.atomic():
            self.write(1)
            self.write(0)

    def die(self, session):
        session.stop("KILL")
        self.order.by_name["both"].kill()

    @property
    def written(self):
        return list(Job.objects.filter(queue=self.queue).order_by("pk").values_list("priority", flat=True))

    def wrongs(self):
        self.seen.append(str(self.order))
        if self.written != [1, 1]:
            yield f"written: {self.written}"


@pytest.fixture(autouse=True)
def seen():
    TwoRows.seen = []
    yield TwoRows.seen


def test_each_order_of_the_steps_comes_once(explore, seen):
    assert explore(TwoRows, "first", "second") == math.comb(4, 2)
    assert len(set(seen)) == 6


def test_steps_that_come_first_leave_the_rest_to_be_ordered(explore, seen):
    assert explore(TwoRows, "first", "second", lead=("first",)) == 3
    assert all(order.startswith("  first: UPDATE") for order in seen)


class SameRow(TwoRows):
    def wrongs(self):
        self.seen.append(str(self.order))
        assert self.written == [2, 0]
        return iter(())


def test_a_session_that_waits_for_a_lock_is_passed_over_until_it_has_it(explore, seen):
    """An UPDATE of the second one between that of the first and its COMMIT is finished after that."""
    assert explore(SameRow, "first", "first_too") == 4
    for order, one in itertools.product(seen, ("first", "first_too")):
        assert order.count(f"  {one}: COMMIT") == 1


def test_a_deadlock_is_an_error_of_the_order(explore):
    with pytest.raises(WrongOrderError, match="deadlock detected"):
        explore(TwoRows, "both", "both_the_other_way", lead=("both", "both_the_other_way"))


class Killing(TwoRows):
    def wrongs(self):
        if self.written != [0, 0]:
            yield f"written: {self.written}"


def test_what_a_killed_session_has_not_committed_is_rolled_back(explore):
    with pytest.raises(WrongOrderError, match=r"written: \[1, 1\]\n[^K]+COMMIT\n  die: KILL$"):
        explore(Killing, "die", "both")
