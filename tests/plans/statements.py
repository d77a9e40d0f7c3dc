"""Every statement of the queue that runs while there is work, with parameters as a worker gives them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from pgonly_django.compat import new_ids
from pgonly_django.models import Job, Schedule
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import (
    batches,
    checkpoints,
    failed_jobs,
    finish,
    health,
    liveness,
    output,
    promote,
    prune,
    rescue,
    stats,
    unique,
    waits,
)
from pgonly_django.queue.claim import Claim, Claimer
from pgonly_django.queue.enqueue import NewJob, Template, Unique
from pgonly_django.queue.finish import Finish
from pgonly_django.queue.limited import claim as limited_claim
from pgonly_django.queue.limited import gates, look
from pgonly_django.queue.limited.turns import GroupKind
from pgonly_django.scheduling import calls, due
from pgonly_django.tasks.redrive import redrive_page, redrive_rows
from tests.plans.found import positional
from tests.plans.table import WORKER
from tests.queue.rows import HOUR, LEASE, ago

ALL_BANDS = [(f"queue {queue}", priority) for queue in range(7) for priority in range(3)]
GONE = "tests.jobs.gone"  # a task that a worker leaves to others


def head_claim(*queues, unknown=()):
    return texts(claimer_of(queues, unknown).statement(Claim(50, {}, take_suspect=True)))


def claimer_of(queues, unknown):
    claimer = Claimer(WORKER, LEASE, queues)
    for task in unknown:
        claimer.unknown.note(task)
    return claimer


def floor_claim(unknown=()):
    claimer = claimer_of((), unknown)
    claimer.floors = dict.fromkeys(ALL_BANDS, time.time() - 10)
    return texts(claimer.statement(Claim(50, {}, take_suspect=False, from_head=False)))


def texts(claim):
    statement, parameters = claim
    return statement.sql, parameters


def ended(outcome, state, **options):
    """For the ids of jobs: the statement that writes such ends."""

    def statement(held):
        batch = [Finish(job_id, 1, outcome, state, result="1", entry="{}") for job_id in held]
        ((statement, parameters),) = finish.finish_statements(batch, **options)
        return statement.sql, parameters

    return statement


SUCCEEDED, NOT = (Outcome.SUCCEEDED, State.SUCCEEDED), (Outcome.FAILED, State.FAILED)


def of_queryset(rows):
    sql, parameters = rows.query.sql_with_params()
    return sql, dict(zip(positional(sql)[1], parameters, strict=True))


def as_django_sends(rows):
    """With its values in the text, as Django's own cursors send it."""
    return connection.ops.compose_sql(*rows.query.sql_with_params()), {}


def due_schedules():
    schedules = due.DueSchedules("default")
    schedules.known = {f"schedule {number}" for number in range(1, 50)}
    return schedules


def enqueue_unique(debounce=None):
    """Twenty calls: some keys are taken, some are over, some are new."""
    template = Template("default", "default", "tests.jobs.add", 0, 4)
    kinds = [f"{kind} {number}" for kind in ("retained", "unfinished") for number in range(10, 110, 10)]
    calls = [NewJob(template, "[1]", "{}", None, Unique(key, "waiting", HOUR, debounce)) for key in kinds]
    return texts(unique.statement(list(zip(new_ids(20), calls, strict=True))))


def parameters(held) -> dict[str, Any]:
    """By name, as a worker with eight threads gives them for the jobs `held`, where STATEMENTS says nothing else."""
    return {
        "after": 2,
        "all_queues": True,
        "before": held[0],
        "budget": "p",
        "by_hand": False,
        "calls": json.dumps([{"id": each, **CALL} for each in held]),
        "closed": ["queue 6"],
        "cursor_keys": ["few"],
        "cursor_priorities": [0],
        "cursor_queues": ["keyed"],
        "delays": [1.0] * len(held),
        "id": held[0],
        "ids": held,
        "job_limits": [8],
        "keys": ["flood", "few"],
        "keys_at_most": look.KEYS_AT_MOST,
        "lease_epoch": 1,
        "lease_epochs": [1] * len(held),
        "lease_for": LEASE,
        "limit": 1000,
        "lines": ['[{"text": "line"}]'] * len(held),
        "name": "new",
        "numbers": [0],
        "of_any_role": True,
        "older_than": HOUR,
        "open": ["limited"],
        "model": "large",
        "outcome": "enqueued",
        "part": HOUR,
        "parts": ["step 1"],
        "places": [9] * len(held),
        "positions": "{}",
        "priorities": [0],
        "progress": ['{"done": 1}'] * len(held),
        "queue": "dead",
        "queues": [],
        "reservation": WORKER,
        "result": "1",
        "running": 3,
        "schedule": "schedule 7",
        "seconds": 1.5,
        "settle_for": timedelta(0),
        "start_over": [True] * len(held),  # as of a run that starts over
        "starts": [0] * len(held),
        "take_suspect": True,
        "texts": ["a"] * len(held),
        "tokens_in": 1,
        "tokens_out": 1,
        "unknown": [GONE],
        "unwritten": [False] * len(held),
        "usd": "0.1",
        "value": "1",
        "within": HOUR,
        "worker": WORKER,
    }


CALL = {"args": [1], "kwargs": {}, "slots": 1, "unique_while": "unfinished"}

PRIMARY, READY, RUNNING = {"pgonly_job_pkey"}, {"pgonly_job_ready"}, {"pgonly_job_running"}
SUSPECT, SCHEDULED, FINISHED = {"pgonly_job_suspect"}, {"pgonly_job_scheduled"}, {"pgonly_job_finished"}
WORKER_ROW, STEP = {"pgonly_worker_pkey"}, {"pgonly_step_once"}
OUTPUT, CHECKPOINT = {"pgonly_job_output_once"}, {"pgonly_checkpoint_pkey"}
WAIT, EVENT, UNDELIVERED = {"pgonly_wait_once"}, {"pgonly_event_pkey"}, {"pgonly_event_undelivered"}
WAIT_KEY, EVENT_END, KEPT = {"pgonly_wait_key"}, {"pgonly_event_expires"}, {"pgonly_wait_kept"}
SCHEDULE, TICK = {"pgonly_schedule_due"}, {"pgonly_tick_once"}
SCHEDULE_ROW = {"pgonly_schedule_pkey", "pgonly_schedule_name_cfe7efd9_like"}  # either finds a name
STATS, STATS_ROW = {"pgonly_job_stats_once"}, {"pgonly_job_stats_pkey"}
DEAD_LETTER, FAILED = {"pgonly_job_dead_letter"}, {"pgonly_job_failed"}
UNIQUE, QUEUE = {"pgonly_job_unique"}, {"pgonly_queue_pkey"}
LIMITED, LIMITED_RUNNING = {"pgonly_job_limited"}, {"pgonly_job_limited_running"}
GATE_ROWS = {
    "pgonly_queue_pkey",
    "pgonly_queue_tokens_pkey",
    "pgonly_limiter_pkey",
    "pgonly_limiter_name_2975d601_like",
}
FROM_HEAD, WAITING = READY | PRIMARY | SUSPECT, READY | LIMITED | SUSPECT | SCHEDULED
LOOKED_AT = READY | LIMITED | LIMITED_RUNNING | SUSPECT | KEPT | PRIMARY
BATCH, OPEN, GATHERED = {"pgonly_batch_pkey"}, {"pgonly_batch_open"}, {"pgonly_batch_once"}
MEMBER, UNFINISHED_MEMBER = {"pgonly_job_batch"}, {"pgonly_job_batch_unfinished"}
# Ten that are finished, ten that are open, ten that are over.
SOME_BATCHES = [
    f"00000000-0000-7000-9000-{number + n:012}" for number in (0, 90000, 90045) for n in range(10)
]
NONE: set[str] = set()


def uses(indexes, sql, may_use=NONE, **own):
    """`sql` must use these indexes. It is a text, with its `own` parameters and else those of parameters(); or text and
    parameters, or a function that makes these for the ids of some running jobs."""
    return sql, indexes, may_use, own


def candidates(kind):
    return limited_claim.CANDIDATES_OF[kind]


OF_WAIT = {"choices": "[]", "question": "", "keeps_key": False}
SOME_KEYS = {"queues": ["keyed"], "keys": ["few"]}
OF_LIMITED = {"queues": ["limited"], "keys": [None]}

STATEMENTS = {
    "claim, head of all queues": uses(FROM_HEAD, head_claim(), QUEUE),
    "claim, head of given queues": uses(FROM_HEAD, head_claim("queue 3", "queue 1"), QUEUE),
    "claim, floors": uses(READY | PRIMARY, floor_claim(), QUEUE),
    "claim, head, beside others": uses(FROM_HEAD, head_claim(unknown=[GONE]), QUEUE | WORKER_ROW),
    "claim, floors, beside others": uses(READY | PRIMARY, floor_claim([GONE]), QUEUE | WORKER_ROW),
    "enqueue, unique": uses(UNIQUE | PRIMARY, enqueue_unique()),
    "enqueue, debounced": uses(UNIQUE | PRIMARY, enqueue_unique(HOUR)),
    "limited, gates": uses(READY | LIMITED | SUSPECT | RUNNING, gates.GATES, GATE_ROWS),
    "limited, look of all queues": uses(LOOKED_AT, look.GROUPS_OF_ALL),
    "limited, look of given queues": uses(
        LOOKED_AT, look.GROUPS_OF_GIVEN, queues=["queue 3", "keyed", "limited"]
    ),
    "limited, keys": uses(LIMITED_RUNNING | KEPT | PRIMARY, gates.COUNT_OF_KEYS),
    "limited, candidates of a key": uses(LIMITED, candidates(GroupKind.KEYED), WORKER_ROW, **SOME_KEYS),
    "limited, candidates of a flood": uses(
        LIMITED, candidates(GroupKind.KEYED), WORKER_ROW, **{**SOME_KEYS, "keys": ["flood"]}
    ),
    "limited, candidates that kept their key": uses(
        PRIMARY | KEPT, candidates(GroupKind.KEPT), WORKER_ROW, **SOME_KEYS
    ),
    "limited, candidates without a key": uses(
        LIMITED, candidates(GroupKind.KEYLESS), WORKER_ROW, **{**SOME_KEYS, "keys": [None]}
    ),
    "limited, candidates of a queue": uses(READY, candidates(GroupKind.PLAIN), WORKER_ROW, **OF_LIMITED),
    "limited, suspects of a queue": uses(SUSPECT, candidates(GroupKind.SUSPECT), WORKER_ROW, **OF_LIMITED),
    "limited, claim": uses(PRIMARY, limited_claim.CLAIM),
    "limited, claimed": uses(PRIMARY, limited_claim.CLAIMED),
    "finish, succeeded": uses(PRIMARY, ended(*SUCCEEDED)),
    "finish, anything else": uses(PRIMARY | STEP | CHECKPOINT, ended(*NOT)),
    "finish, succeeded unless locked": uses(PRIMARY, ended(*SUCCEEDED, skip_locked=True)),
    "finish, anything else unless locked": uses(PRIMARY | STEP | CHECKPOINT, ended(*NOT, skip_locked=True)),
    "renew": uses(PRIMARY, liveness.RENEW),
    "report": uses(PRIMARY, finish.REPORT.sql),
    "last report": uses(PRIMARY, finish.LAST_REPORT),
    "cancel requested": uses(PRIMARY, liveness.CANCEL_REQUESTED),
    "claimed by": uses(RUNNING, liveness.CLAIMED_BY),
    "heartbeat": uses(RUNNING | WORKER_ROW | OPEN, liveness.HEARTBEAT, memory="[200]"),
    "worker requested": uses(WORKER_ROW, liveness.REQUESTED),
    "fall asleep": uses(RUNNING | SCHEDULED | WORKER_ROW, liveness.FALL_ASLEEP),
    "worker stopped": uses(WORKER_ROW, liveness.STOPPED),
    "whose": uses(PRIMARY, finish.WHOSE),
    "save checkpoint": uses(PRIMARY, checkpoints.SAVE_CHECKPOINT),
    "load checkpoint": uses(CHECKPOINT | OUTPUT, checkpoints.LOAD_CHECKPOINT.sql),
    "find step": uses(PRIMARY | STEP, checkpoints.FIND_STEP, name="step 3"),
    "write output": uses(PRIMARY | OUTPUT, output.WRITE_OUTPUT),
    "keep output": uses(NONE, output.KEEP_OUTPUT, PRIMARY, places=[1], starts=[0], texts=["a"]),
    "output starts over": uses(OUTPUT, output.START_OVER),
    "load output": uses(OUTPUT, output.LOAD_OUTPUT),
    "read pieces of outputs": uses(
        OUTPUT, output.READ_PIECES, afters=[2], places=[3], given=[1], sizes=[100]
    ),
    "save step": uses(PRIMARY, checkpoints.SAVE_STEP),
    "save paid step": uses(PRIMARY, checkpoints.SAVE_PAID_STEP),
    "rescue": uses(RUNNING | PRIMARY | WORKER_ROW | STEP | CHECKPOINT, rescue.RESCUE),
    "end transactions": uses(RUNNING | WORKER_ROW, rescue.END_TRANSACTIONS),
    "known dead, rescue": uses(RUNNING | PRIMARY | STEP | CHECKPOINT, rescue.RESCUE_KNOWN_DEAD, WORKER_ROW),
    "known dead, still running": uses(RUNNING, rescue.STILL_RUNNING),
    "known dead, stop": uses(NONE, rescue.STOP, WORKER_ROW),
    "promote": uses(SCHEDULED | PRIMARY | UNDELIVERED, promote.PROMOTE),
    "wait, begin": uses(PRIMARY, waits.BEGIN.sql, name="event", key="new", timeout=HOUR, **OF_WAIT),
    "wait, look": uses(
        PRIMARY | WAIT | EVENT | STEP,
        waits.LOOK.sql,
        {"pgonly_wait_pkey"},
        name="event",
        names=["event"],
        own=["event"],
    ),
    "wait, withdraw": uses(PRIMARY | WAIT, waits.WITHDRAW.sql, names=["event"]),
    "events, deliver": uses(PRIMARY | EVENT | WAIT_KEY | UNDELIVERED, waits.DELIVER),
    "events, send to others": uses(
        EVENT | WAIT_KEY | PRIMARY, waits.SEND_TO_OTHERS.sql, key="new", payload='"x"', keep=HOUR
    ),
    "events, prune": uses(EVENT | EVENT_END | WAIT_KEY, waits.PRUNE),
    "prune": uses(FINISHED | PRIMARY | STEP | CHECKPOINT | OUTPUT | WAIT | GATHERED | BATCH, prune.PRUNE),
    "prune, these": uses(PRIMARY | STEP | CHECKPOINT | OUTPUT | WAIT | GATHERED, prune.PRUNE_THESE, BATCH),
    "prune, expired": uses(FINISHED | BATCH, prune.EXPIRED, PRIMARY),
    "prune, expire": uses(PRIMARY, prune.EXPIRE),
    "prune, put off": uses(PRIMARY, prune.PUT_OFF),
    "batches, find": uses(
        PRIMARY | GATHERED | WAIT, batches.FIND_GATHERED, {"pgonly_wait_pkey"}, name="papers"
    ),
    "batches, begin": uses(PRIMARY, batches.BEGIN_GATHERED, GATHERED, name="papers", batch=WORKER, size=2),
    "batches, add": uses(NONE, batches.ADD, BATCH | OPEN, id=SOME_BATCHES[0]),
    "batches, over": uses(UNFINISHED_MEMBER, batches.OVER, BATCH | OPEN, ids=SOME_BATCHES),
    "batches, lock": uses(NONE, batches.LOCK, BATCH | OPEN, ids=SOME_BATCHES),
    "batches, close": uses(BATCH | UNFINISHED_MEMBER | MEMBER, batches.CLOSE, ids=SOME_BATCHES),
    "batches, sent": uses(
        BATCH, batches.NOTE_SENT, ids=SOME_BATCHES, sent=json.dumps({key: {} for key in SOME_BATCHES})
    ),
    "batches, sweep": uses(OPEN | UNFINISHED_MEMBER | PRIMARY, batches.SWEEP),
    "batches, prune": uses({"pgonly_batch_expired"} | BATCH | MEMBER, batches.PRUNE_BATCHES),
    "schedules, look": uses(SCHEDULE, lambda _: of_queryset(due_schedules().look())),
    "schedules, turn": uses(NONE, lambda _: of_queryset(due_schedules().turn(["schedule 7"])), SCHEDULE_ROW),
    "schedules, plan": uses(
        NONE, due.PLAN.sql, SCHEDULE_ROW, names=["schedule 7", "schedule 8"], next_ats=[datetime.now(UTC)] * 2
    ),
    "ticks, newest runs": uses(
        TICK, lambda _: of_queryset(calls.newest_runs(Schedule(name="schedule 7"), "default"))
    ),
    "ticks, prune": uses(TICK, due.PRUNE_TICKS.sql, {"pgonly_tick_pkey"}),
    "redrive, page": uses(
        FAILED, lambda _: as_django_sends(redrive_page(Job.objects.failed(), (WORKER, ago(HOUR), None)))
    ),
    "redrive, rows": uses(
        NONE,
        lambda _: as_django_sends(redrive_rows(Job.objects.failed(), SOME_BATCHES)),
        PRIMARY | FAILED | UNIQUE,
    ),
    "redrive": uses(PRIMARY, failed_jobs.REDRIVE),
    "redrive, calls": uses(PRIMARY, failed_jobs.WRITE_CALLS, UNIQUE),
    "dead letters, unsent": uses(DEAD_LETTER, failed_jobs.UNSENT),
    "dead letters, sent": uses(PRIMARY, failed_jobs.MARK),
    "dead letters, queues": uses(DEAD_LETTER, failed_jobs.QUEUES),
    "health, oldest of all queues": uses(WAITING, health.OLDEST_OF_ALL, QUEUE, with_paused=False),
    "health, oldest of given queues": uses(
        WAITING, health.OLDEST_OF_GIVEN, QUEUE, queues=["queue 3", "keyed"], with_paused=True
    ),
    "health, oldest per queue": uses(WAITING, health.OLDEST_PER_QUEUE),
    "health, latency": uses(RUNNING | PRIMARY, health.LATENCY, queues=["queue 3"]),
    "health, failures": uses(FAILED, health.FAILURES),
    "waiting": uses(WAITING, promote.COUNT_WAITING),
    "first of its name": uses(WORKER_ROW, liveness.FIRST_OF_ITS_NAME),
    "forget stopped workers": uses(WORKER_ROW, liveness.FORGET, stopped_named="stopped"),
    "forget workers": uses(WORKER_ROW, liveness.FORGET, older_than=timedelta(days=1), stopped_named=None),
    # Some 3,000 rows are due.
    "job stats, prune minutes": uses(
        STATS, stats.PRUNE, STATS_ROW, granularity="minute", older_than=52 * HOUR
    ),
    "job stats, prune hours": uses(STATS, stats.PRUNE, STATS_ROW, granularity="hour", older_than=780 * HOUR),
}


def asked(name, held):
    """SQL and parameters of one of STATEMENTS, for the ids of some running jobs."""
    statement, _, _, own = STATEMENTS[name]
    if callable(statement):
        return statement(held)
    if isinstance(statement, tuple):
        return statement
    given = parameters(held) | own
    return statement, {name: given[name] for name in positional(statement)[1]}


# Without a plan: what only inserts, and the parts of statements that are put together when they are needed.
INSERTS = {"queue.enqueue.INSERT", "queue.enqueue.COPY", "queue.limited.gates.SPEND",
           "queue.batches.CREATE",
           "queue.liveness.REGISTER", "queue.stats.ADD", "queue.waits.SEND", "queue.waits.SEND_MANY"}  # fmt: skip
PARTS = {
    "queue.unique.INSERT_UNIQUE",
    "queue.claim.BANDS_OF_GIVEN",
    "queue.claim.HEAD",
    "queue.claim.FLOOR",
    "queue.finish.SUCCEED",
    "queue.finish.FINISH",
    "queue.limited.look.GROUPS",
    "queue.health.OLDEST",
}
