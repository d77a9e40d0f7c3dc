"""No order of those that meet at a wait loses an event, answers twice, or leaves a job waiting for what has come."""

from __future__ import annotations

from functools import partial

import pytest
from django.db.models import Q

from pgonly_django.context.memory import Memory
from pgonly_django.database.statement import Statement
from pgonly_django.models import Event, Step, Wait
from pgonly_django.models import job as job_module
from pgonly_django.queue import finish, waits
from tests.interleaving.asking import Asking
from tests.interleaving.asking_several import AskingSeveral, ask_first, give_up, look_again
from tests.interleaving.conftest import WrongOrderError, cases, change
from tests.queue.rows import SECOND

FOUND_NOTHING = ("ask",)  # as in each first run
BEGUN = ("ask",) * 3  # the row of the wait is committed, and the job has not looked again
BOTH_BEGUN = ("ask",) * 4  # and the row of the second wait


def parked(**facts):
    return lambda server: Asking(server).parked(**facts)


def expired(server):
    return Asking(server, keep=0 * SECOND)


def out_of_time(server):
    return Asking(server, timeout=0)


def in_isolation(level):
    return partial(Asking, isolation=level)


def several(of_task):
    return partial(AskingSeveral, of_task=of_task)


PARK = (Asking, ("ask", "send_and_deliver"), FOUND_NOTHING)
CASES = {
    "a job parks and an event is sent": PARK,
    "an event is sent at the deadline": (out_of_time, ("ask", "send_and_deliver"), BEGUN),
    "an event is sent when the deadline of a parked job comes": (
        parked(is_due=True),
        ("wake_when_due", "send_and_deliver"),
        (),
    ),
    "two senders": (Asking, ("ask", "send", "send_too"), BEGUN),
    "two senders and a worker": (parked(), ("send", "send_too", "deliver"), ()),
    "the worker dies": (Asking, ("ask", "send", "die"), FOUND_NOTHING),
    "the worker dies before the event is sent": (Asking, ("ask", "die"), ()),
    "the worker dies at the deadline": (out_of_time, ("ask", "send", "die"), BEGUN),
    "an expired event is pruned when a job begins to wait": (
        lambda server: expired(server).answered(),
        ("ask", "prune"),
        (),
    ),
    "an expired event is pruned before it is delivered": (
        lambda server: expired(server).parked().answered(),
        ("deliver", "prune"),
        (),
    ),
    "a person holds and resumes the job": (parked(), ("send_and_deliver", "hold_and_resume"), ()),
    "a person holds the job in a transaction that fails": (
        parked(),
        ("send_and_deliver", "hold_in_vain"),
        (),
    ),
    "a person cancels the job": (Asking, ("ask", "cancel"), BEGUN),
    "a person cancels the job that waits": (parked(), ("send_and_deliver", "cancel"), ()),
    "the first of two keys": (several(ask_first), ("ask", "send_a"), BOTH_BEGUN),
    "the first of two keys, and the worker dies": (
        several(ask_first),
        ("ask", "send_a", "die"),
        (*BOTH_BEGUN, "ask", "ask"),
    ),
    "an event is delivered in the run": (several(look_again), ("ask", "send_a"), (*BEGUN, "ask", "ask")),
    "a wait is withdrawn": (several(give_up), ("ask", "send_a"), (*BEGUN, "ask", "ask")),
    "a wait is withdrawn, and the other one answered": (
        several(give_up),
        ("ask", "send_b"),
        (*BEGUN, *BEGUN),
    ),
    "a sender in REPEATABLE READ": (in_isolation("REPEATABLE READ"), ("ask", "send_and_deliver"), BEGUN),
    "a sender in SERIALIZABLE": (in_isolation("SERIALIZABLE"), ("ask", "send_and_deliver"), BEGUN),
}


@pytest.mark.parametrize(
    "case",
    cases(
        CASES,
        "the worker dies at the deadline",
        "two senders",
        "a sender in SERIALIZABLE",
        "the first of two keys, and the worker dies",
    ),
)
@pytest.mark.timeout(600)  # hundreds of orders, on a machine that may be busy
def test_no_order_is_wrong(explore, case):
    scene, scripts, lead = CASES[case]
    assert explore(scene, *scripts, lead=lead) > 1


# Each check in the product, left out: some order is wrong then, or the tester would not find it.


changed = partial(change, waits)


def look_and_then_begin(self, wait):
    look = self.look_again(wait)
    self._fenced(waits.begin, *wait.of)
    return look


def look_without_storing(*arguments, look=waits.look):
    """As look() does, with a LOOK that does not know of the deadline."""
    found = look(*arguments)
    is_over = found.answer is None and found.seconds_left is not None and found.seconds_left <= 0
    return found._replace(answer='{"timed_out": true}') if is_over else found


def look_without_saving(self, wait, look_again=Memory.look_again):
    found = look_again(self, wait)
    event = Event.objects.filter(key=wait.of[0].key).first()
    if found.answer is not None and event is not None:
        Step.objects.filter(name=wait.name, job=self._run.job.id).delete()
        Wait.objects.create(job_id=self._run.job.id, name=wait.name, key=wait.of[0].key, lease_epoch=1)
    return found


NOT_CANCELLED = (
    finish.BLOCKING[0],
    Statement(finish.BLOCKING[1].sql.replace("cancel_requested_at IS NOT", "id IS")),
)
LOST = "its event was sent, and the job is scheduled forever"
BROKEN = {
    "delivery lets go of an event while a job leaves its run": (
        [changed("DELIVER", "'running'", "'none'")],
        "a job parks and an event is sent",
        LOST,
    ),
    "a job looks before its wait is committed": (
        [(Memory, "look_for", look_and_then_begin)],
        "a job parks and an event is sent",
        LOST,
    ),
    "delivery lets go of an event whose job is locked": (
        [changed("DELIVER", "IN ('scheduled', 'running')", "IN ('running')")],
        "a person holds the job in a transaction that fails",
        LOST,
    ),
    "the keys that came later are not withdrawn": (
        [
            changed(
                "LOOK",
                "id = ANY (ARRAY (SELECT id FROM mine WHERE name = ANY (%(own)s::text[])))",
                "id = (SELECT min(id) FROM mine)",
            )
        ],
        "the first of two keys",
        "a wait of the job is left",
    ),
    "an answer that is delivered in the run is not stored": (
        [(Memory, "look_again", look_without_saving)],
        "an event is delivered in the run",
        "a wait of the job is left",
    ),
    "a cancelled wait stays": (
        [(waits, "withdraw", lambda *_: None)],
        "a wait is withdrawn",
        "the job was woken for nothing",
    ),
    "a later run does not say that it waits": (
        [changed("BEGIN", "lease_epoch = excluded.lease_epoch, ")],
        "the worker dies before the event is sent",
        "the job is scheduled and does not hear what is sent later",
    ),
    "a timeout is not stored": (
        [
            changed("LOOK", """WHEN wait.until <= clock_timestamp() THEN '{"timed_out": true}' """),
            (waits, "look", look_without_storing),
        ],
        "the worker dies at the deadline",
        r"was told \['timed out', 'a'\]",
    ),
    "the last event counts": (
        [changed("SEND", "DO NOTHING", "DO UPDATE SET payload = excluded.payload")],
        "two senders",
        "count, each for its sender",
    ),
    "an event is pruned though a job waits": (
        [changed("PRUNE", "wait.key = event.key", "false")],
        "an expired event is pruned before it is delivered",
        "the job waited, and its event was deleted",
    ),
    "a resumed job does not look": (
        [(job_module, "_waits_now", lambda: Q(pk=None))],
        "a person holds and resumes the job",
        LOST,
    ),
    "a cancelled job waits": (
        [(finish, "BLOCKING", NOT_CANCELLED)],
        "a person cancels the job",
        "the job was cancelled, and is scheduled",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_tester_finds_it_when(explore, monkeypatch, what):
    changes, case, expected = BROKEN[what]
    for each in changes:
        monkeypatch.setattr(*(each() if callable(each) else each))
    scene, scripts, lead = CASES[case]
    with pytest.raises(WrongOrderError, match=expected):
        explore(scene, *scripts, lead=lead)
