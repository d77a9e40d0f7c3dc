"""No order of those that meet at the end of a batch leaves it open, ends it too early, or calls back twice."""

from __future__ import annotations

from functools import partial

import pytest

from pgonly_django.database.statement import Statement
from pgonly_django.models import job as job_module
from pgonly_django.queue import batches
from pgonly_django.tasks.batches import callback
from tests.interleaving import batching, scenes
from tests.interleaving.batching import Batching, Gathering
from tests.interleaving.conftest import WrongOrderError, cases, change

FIRST_IS_OVER = ("first",) * 3  # written, and the batch is not over
GATHERED = ("gather",) * 3  # its batch is committed

CASES = {
    "the last two members end": (Batching, ("first", "second"), ()),
    "the worker of the last member dies": (partial(Batching, fails=True), ("second", "die"), ()),
    "a member is added when the last one ends": (Batching, ("first", "second", "add"), FIRST_IS_OVER),
    "a member is retried when the last one ends": (
        partial(Batching, fails=True),
        ("second", "retry"),
        ("retry",),  # it has looked what the members have gathered
    ),
    "the batch is cancelled when a member starts": (
        partial(Batching, waits=True),
        ("start_second", "cancel"),
        ("cancel", "cancel"),  # it has looked what the members gather
    ),
    "the batch is cancelled when a member is added": (partial(Batching, waits=True), ("add", "cancel"), ()),
    "two workers close it": (Batching, ("first", "second", "sweep"), (*FIRST_IS_OVER, "second", "second")),
    "a job gathers when the last member ends": (
        Gathering,
        ("gather", "member"),
        (*GATHERED, *["member"] * 5),
    ),
    "the worker of a job that gathers dies": (Gathering, ("gather", "die"), ()),
}


@pytest.mark.parametrize(
    "case",
    cases(
        CASES,
        "a member is retried when the last one ends",
        "a job gathers when the last member ends",
        "the batch is cancelled when a member starts",
    ),
)
@pytest.mark.timeout(600)  # hundreds of orders, on a machine that may be busy
def test_no_order_is_wrong(explore, case):
    scene, scripts, lead = CASES[case]
    assert explore(scene, *scripts, lead=lead) > 1


# Each check in the product, left out: some order is wrong then, or the tester would not find it.


def look_and_then_end(self, claimed, own):
    batches.close(own, [self.batch.id], callback)
    self.run(claimed, own)


changed = partial(change, batches)
NO_SWEEP = [
    (module, "sweep", lambda _: batches.Swept([], [], some_open=False)) for module in (batching, scenes)
]
BROKEN = {
    "nobody sweeps": (
        NO_SWEEP,
        "the worker of the last member dies",
        "the batch is open forever",
    ),
    "a worker looks before the end is committed": (
        [*NO_SWEEP, (Batching, "end", look_and_then_end)],
        "the last two members end",
        "the batch is open forever",
    ),
    "a batch is closed by the snapshot in which it was locked": (
        [changed("LOCK", "FOR NO KEY UPDATE SKIP LOCKED")],
        "a member is added when the last one ends",
        "the batch has finished before a member",
    ),
    "whoever adds a member locks nothing": (
        [changed("ADD", "FOR SHARE")],
        "a member is added when the last one ends",
        "the batch has finished before a member",
    ),
    "a cancelled batch takes members": (
        [changed("ADD", "AND cancelled_at IS NULL")],
        "the batch is cancelled when a member is added",
        "a member that was added to a cancelled batch has run",
    ),
    "a retry does not open the batch": (
        [(job_module, "reopen", lambda alias, ids: None)],
        "a member is retried when the last one ends",
        "the batch has finished before a member",
    ),
    "a callback is enqueued at each close": (
        [changed("CLOSE", " AND closed.sent -> callback.name IS NULL")],
        "a member is retried when the last one ends",
        "'on_finish': 2",
    ),
    "two workers close a batch": (
        [changed("LOCK", "AND finished_at IS NULL")],
        "two workers close it",
        "the batch was closed 2 times",
    ),
    "the end of a batch is no event": (
        [(batches.waits, "SEND", Statement("SELECT %(key)s::text, %(payload)s::text, %(keep)s::interval"))],
        "a job gathers when the last member ends",
        "the job is scheduled with None",
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
