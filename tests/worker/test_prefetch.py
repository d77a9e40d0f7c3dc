from __future__ import annotations

from pgonly_django.worker.claiming import AHEAD_LIMIT, Prefetch


def paced(threads=4, **seconds):
    prefetch = Prefetch(threads)
    for queue, average in seconds.items():
        prefetch.note(queue, average)
    return prefetch


def test_a_queue_whose_run_times_are_not_known_is_not_claimed_ahead():
    assert paced().ahead("ai") == 0
    assert paced().limits(held=0) == {}


def test_long_jobs_are_not_claimed_ahead():
    prefetch = paced(ai=7200.0, mail=0.3)
    assert (prefetch.ahead("ai"), prefetch.ahead("mail")) == (0, 0)
    assert prefetch.limits(held=0) == {}
    assert prefetch.wants_more(held=3)
    assert not prefetch.wants_more(held=4)


def test_short_jobs_are_claimed_ahead_for_a_fifth_of_a_second():
    prefetch = paced(ai=7200.0, mail=0.01)
    assert prefetch.ahead("mail") == 20
    assert prefetch.limits(held=4) == {"mail": 20}
    assert prefetch.wants_more(held=11)
    assert not prefetch.wants_more(held=12)


def test_the_shortest_jobs_are_claimed_ahead_up_to_a_limit():
    assert paced(noop=0.0).ahead("noop") == AHEAD_LIMIT


def test_one_long_job_among_short_ones_ends_the_claims_ahead():
    prefetch = paced(mail=0.001)
    prefetch.note("mail", 7200.0)
    assert prefetch.ahead("mail") == 0


def test_a_queue_that_had_to_give_claims_back_is_not_known_to_be_short_any_more():
    prefetch = paced(mail=0.001)
    prefetch.forget("mail")
    assert prefetch.ahead("mail") == 0
    prefetch.forget("mail")
