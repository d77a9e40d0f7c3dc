from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction

from pgonly_django.models import Queue
from tests.queue.rows import HOUR, ago, claim, claimer, make

ON_THE_FLOORS = 3600.0

pytestmark = pytest.mark.django_db


def test_a_pause_says_how_many_queues_it_changed():
    queues = Queue.objects.named("ai", "mail")
    assert (queues.pause(), queues.pause(), queues.resume(), queues.resume()) == (2, 0, 2, 0)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_running": 0},
        {"rate_count": 1},
        {"rate_seconds": 1.0},
        {"rate_count": 1, "rate_seconds": 0.0},
        {"rate_count": 1, "rate_seconds": float("nan")},
    ],
)
def test_a_limit_that_no_claim_could_obey_is_refused(limits):
    with pytest.raises(IntegrityError), transaction.atomic():
        Queue.objects.create(name="ai", **limits)


def test_what_a_person_edits_survives_a_deploy_and_a_reset_undoes_it():
    declared = {"max_running": 5, "rate_count": None, "rate_seconds": None, "limiter": None}
    Queue.objects.declare({"ai": declared})
    Queue.objects.filter(name="ai").edit(max_running=2)
    Queue.objects.declare({"ai": {**declared, "max_running": 7}})
    assert Queue.objects.get().max_running == 2
    assert Queue.objects.all().reset() == 1
    assert Queue.objects.get().max_running == 7


@pytest.mark.parametrize("crashes", [0, 2], ids=["job", "suspect"])
@pytest.mark.parametrize("queues", [(), ("ai", "mail")], ids=["all queues", "given queues"])
def test_a_pause_holds_for_every_claim_that_begins_after_it(server, queues, crashes):
    make(queue="ai"), make(queue="mail")
    on_the_floors = claimer(*queues)
    assert len(claim(server, on_the_floors, took_seconds=ON_THE_FLOORS)) == 2
    Queue.objects.named("ai").pause()
    for _ in range(2):
        make(queue="ai", crashes=crashes), make(queue="mail", crashes=crashes)
    if not crashes:
        assert not on_the_floors.is_head_due
        assert [job.queue for job in claim(server, on_the_floors, 1)] == ["mail"]
    from_the_head = claimer(*queues)
    found = claim(server, from_the_head) + claim(server, from_the_head)
    assert {job.queue for job in found} == {"mail"}
    Queue.objects.named("ai").resume()
    assert {job.queue for job in claim(server, from_the_head, 1)} == {"ai"}


@pytest.mark.parametrize(
    "limits", [{"max_running": 1}, {"rate_count": 1, "rate_seconds": 1.0}, {"limiter": "deepseek"}]
)
def test_jobs_of_a_limited_queue_are_no_business_of_the_ordinary_claims(server, limits):
    Queue.objects.create(name="ai", **limits)
    make(queue="ai"), make(queue="ai", crashes=2)
    assert claim(server, claimer()) == []


def test_jobs_with_a_key_or_several_slots_are_no_business_of_the_ordinary_claims(server):
    make(concurrency_key="a", concurrency_limit=1, slots=1), make(slots=4), make(slots=4, crashes=2)
    assert claim(server, claimer()) == []


def test_queues_keep_their_order_of_service_beside_many_that_are_limited(server):
    Queue.objects.bulk_create(Queue(name=f"limited {number}", max_running=1) for number in range(500))
    server.execute("ANALYZE pgonly_queue")
    for queue in "abcdefgh":
        make(queue=queue), make(queue=queue)
    by = claimer(*"hgfedcba")
    assert [claim(server, by, 1)[0].queue for _ in range(2)] == ["h", "h"]
    by.floors = {(queue, 0): ago(HOUR).timestamp() for queue in "hgfedcba"}
    by.head_due_at = float("inf")
    assert [claim(server, by, 1)[0].queue for _ in range(4)] == ["g", "g", "f", "f"]
