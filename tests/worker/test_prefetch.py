from __future__ import annotations

from pgonly_django.worker.prefetch import AHEAD_LIMIT, Pace


def paced(threads=4, **seconds):
    pace = Pace(threads)
    for queue, average in seconds.items():
        pace.note(queue, average)
    return pace


def test_a_queue_whose_run_times_are_not_known_is_not_claimed_ahead():
    assert paced().ahead("ai") == 0
    assert paced().rooms(held=0) == {}


def test_long_jobs_are_not_claimed_ahead():
    pace = paced(ai=7200.0, mail=0.3)
    assert (pace.ahead("ai"), pace.ahead("mail")) == (0, 0)
    assert pace.rooms(held=0) == {}
    assert pace.wants_more(held=3)
    assert not pace.wants_more(held=4)


def test_short_jobs_are_claimed_ahead_for_a_fifth_of_a_second():
    pace = paced(ai=7200.0, mail=0.01)
    assert pace.ahead("mail") == 20
    assert pace.rooms(held=4) == {"mail": 20}
    assert pace.wants_more(held=11)
    assert not pace.wants_more(held=12)


def test_the_shortest_jobs_are_claimed_ahead_up_to_a_limit():
    assert paced(noop=0.0).ahead("noop") == AHEAD_LIMIT


def test_one_long_job_among_short_ones_ends_the_claims_ahead():
    pace = paced(mail=0.001)
    pace.note("mail", 7200.0)
    assert pace.ahead("mail") == 0


def test_a_queue_that_had_to_give_claims_back_is_not_known_to_be_short_any_more():
    pace = paced(mail=0.001)
    pace.forget("mail")
    assert pace.ahead("mail") == 0
    pace.forget("mail")
