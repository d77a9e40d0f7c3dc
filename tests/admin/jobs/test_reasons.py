"""The list of ready jobs says above its rows why they wait, once for each queue."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User

from pgonly_django.models import Queue, State
from tests.admin.conftest import LIST, act
from tests.admin.jobs.test_page import text_of
from tests.queue.rows import make, make_running, make_worker

pytestmark = pytest.mark.django_db(transaction=True)


def reasons(client, **query):
    """Number, queue and reason of each."""
    html = client.get(LIST, {"state__exact": State.READY, **query}).text
    listed = re.search(r'<ul class="pgonly-reasons">(.*?)</ul>', html, re.DOTALL)
    return (
        [text_of(line).strip() for line in re.findall(r"<li>(.*?)</li>", listed[1], re.DOTALL)]
        if listed
        else []
    )


@pytest.fixture
def three_queues(admin_client):
    """No worker serves ai, exports is paused, and mail waits for nothing."""
    make_worker(queues=["exports", "mail"], threads=4)
    for queue, count in (("ai", 3), ("exports", 2), ("mail", 1)):
        Queue.objects.named(queue)
        for _ in range(count):
            make(queue=queue)
    User.objects.filter(username="admin").update(username="Ada")
    act(admin_client, "pause_queues", [Queue.objects.get(name="exports")], "/admin/pgonly_django/queue/")


def test_each_reason_is_said_once_with_its_number_of_jobs(admin_client, three_queues):
    ai, exports = reasons(admin_client)
    assert ai == "3 in ai : no live worker serves “ai” ."
    assert re.fullmatch(
        r"2 in exports : the queue “exports” has been paused since [\d :-]+, by Ada \.", exports
    )


def test_the_numbers_are_of_the_listed_jobs_and_lead_to_them(admin_client, three_queues):
    make(queue="ai", task="shop.tasks.other")
    assert reasons(admin_client, task="shop.tasks.other") == ["1 in ai : no live worker serves “ai” ."]
    html = admin_client.get(LIST, {"state__exact": State.READY}).text
    address = re.search(r'<a href="(\?[^"]*)">4 in ai</a>', html)[1].replace("&amp;", "&")
    listed = admin_client.get(f"{LIST}{address}").context["cl"].result_list
    assert [job.queue for job in listed] == ["ai"] * 4


def test_a_full_queue_and_busy_workers_are_reasons(admin_client):
    worker = make_worker(threads=1, running=1)
    Queue.objects.create(name="ai", max_running=1)
    make_running(worker.pk, queue="ai"), make(queue="ai"), make(queue="mail")
    assert reasons(admin_client) == [
        "1 in ai : the queue “ai” is full: 1 of 1 run .",
        "1 in mail : the only thread that serves “mail” is busy.",
    ]


@pytest.mark.parametrize("state", [State.RUNNING, State.FAILED, ""])
def test_other_lists_say_none(admin_client, state):
    make(queue="ai")
    assert reasons(admin_client, state__exact=state) == []
