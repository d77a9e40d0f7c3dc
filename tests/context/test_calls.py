from __future__ import annotations

import threading
import time

from pgonly_django.context.calls import Calls


def test_a_call_fits_in_by_the_longest_so_far_with_a_margin():
    calls = Calls()
    assert not calls.lacks_time()
    calls.until = time.monotonic() + 10
    assert not calls.lacks_time()  # no call so far
    calls.longest_seconds = 8.0
    assert not calls.lacks_time()
    calls.longest_seconds = 9.5
    assert calls.lacks_time()
    assert not calls.lacks_time(2.0)
    assert calls.lacks_time(9.5)


def test_calls_are_measured_also_when_they_fail():
    calls = Calls()
    try:
        with calls.one("step"):
            time.sleep(0.02)
            raise ValueError
    except ValueError:
        pass
    assert calls.longest_seconds >= 0.02
    assert not calls.others_under_way(())


def test_inside_a_call_no_other_one_is_waited_for_and_nothing_lacks_time():
    calls = Calls()
    calls.until, calls.longest_seconds = time.monotonic(), 5.0
    with calls.one("step"):
        assert not calls.others_under_way(())
        assert not calls.lacks_time()
        seen = []
        thread = threading.Thread(
            target=lambda: seen.append((calls.others_under_way(()), calls.lacks_time()))
        )
        thread.start()
        thread.join()
    assert seen == [(True, True)]
