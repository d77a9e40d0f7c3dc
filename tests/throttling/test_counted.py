"""A throttle that many threads share, as Django Ninja's are."""

from __future__ import annotations

import threading
import time

import pytest

from pgonly_django.cache import PostgresCache
from pgonly_django.throttling.counted import CountedThrottle
from tests.neighbours.throttles import admitted
from tests.waiting import PATIENT, beside

LIMIT = 5


class Throttle(CountedThrottle):
    cache = PostgresCache("throttles", {"OPTIONS": PATIENT})


@pytest.fixture
def others_go_on_between_lines():
    """In new threads, before each line of count()."""

    def traced(frame, event, _):
        if frame.f_code is not CountedThrottle.count.__code__:
            return None
        if event == "line":
            time.sleep(0.001)
        return traced

    before = threading.gettrace()
    threading.settrace(traced)
    yield
    threading.settrace(before)


@pytest.mark.slow
def test_threads_that_share_a_throttle_get_exactly_the_rate(transactional_db, others_go_on_between_lines):
    shared = Throttle()
    assert admitted(lambda: shared.count("ann", LIMIT, 60)) == LIMIT


def test_each_thread_is_told_how_long_its_own_request_waits(transactional_db):
    shared = Throttle()
    assert shared.count("ann", 1, 60)
    assert not shared.count("ann", 1, 60)

    with beside(shared.count, "ben", 1, 60) as admitted_too:
        pass
    assert admitted_too == [True]
    assert 50 < shared.wait() <= 60


class OfRequests(Throttle):
    """With what a framework's class has."""

    rate, num_requests, duration = "1/min", 1, 60

    def get_cache_key(self, request, view):
        return f"{request} {view}"

    def throttle_failure(self):
        return False

    def allow_request(self, request, view):
        return super().allow_request(request=request, view=view)


def test_a_subclass_may_name_what_it_passes_on(transactional_db):
    throttle = OfRequests()
    found = [throttle.allow_request("ann", view) for view in ("upload", "upload", "list")]
    assert found == [True, False, True]
    assert throttle.key == "ann list"
