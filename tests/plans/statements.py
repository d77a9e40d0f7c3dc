"""Every statement of the queue that runs while there is work, with parameters as a worker gives them."""

from __future__ import annotations

import json
import time
from datetime import timedelta

from django.db import connection

from pgonly_django.compat import new_ids
from pgonly_django.models import Job, Schedule
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import (
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
)
from pgonly_django.queue.claim import Claim, Claimer
from pgonly_django.queue.enqueue import NewJob, Template, Unique
from pgonly_django.queue.finish import Finish, Report
from pgonly_django.queue.limited import claim as limited_claim
from pgonly_django.queue.limited import gates, look
from pgonly_django.queue.limited.turns import Cursors, GroupKind
from pgonly_django.scheduling import calls, due
from pgonly_django.tasks.redrive import redrive_page
from tests.plans.found import positional
from tests.plans.table import WORKER
from tests.queue.rows import HOUR, LEASE

ALL_BANDS = [(f"queue {queue}", priority) for queue in range(7) for priority in range(3)]


def head_claim(*queues, unknown=()):
    claimer = claimer_of(queues, unknown)
    return texts(claimer.statement(Claim(50, {}, take_suspect=True)))


def claimer_of(queues, unknown):
    """Of a worker that leaves the jobs of `unknown` tasks to others."""
    claimer = Claimer(WORKER, LEASE, queues)
    for task in unknown:
        claimer.unknown.note(task)
    return claimer


def floor_claim(unknown=()):
    claimer = claimer_of((), unknown)
    floor = time.time() - 10
    claimer.floors = dict.fromkeys(ALL_BANDS, floor)
    claimer.head_due_at = float("inf")
    return texts(claimer.statement(Claim(50, {}, take_suspect=False)))


def texts(claim):
    statement, parameters = claim
    return statement.sql, parameters


LEAVING = {"worker": WORKER, "lease_for": LEASE, "unknown": ["tests.jobs.gone"]}


def limited_look(*queues, cursors=None):
    """As a worker with eight threads gives them."""
    parameters = {"queues": list(queues), "open": ["limited"], "closed": ["queue 6"], "take_suspect": True}
    found = Cursors({("keyed", 0): "few"} if cursors is None else cursors)
    statement = look.GROUPS_OF_GIVEN if queues else look.GROUPS_OF_ALL
    return statement, {**parameters, **found.parameters(), "keys_at_most": look.KEYS_AT_MOST, **LEAVING}


def candidates(kind, queue="keyed", key=None, limit=8):
    return limited_claim.CANDIDATES_OF[kind], {
        "numbers": [0],
        "queues": [queue],
        "priorities": [0],
        "keys": [key],
        "job_limits": [limit],
        **LEAVING,
    }


def limited_claimed(held):
    return limited_claim.CLAIM, {"ids": held, "worker": WORKER, "lease_for": LEASE}


def ended(outcome, state, **options):
    """For the ids of jobs: the statement that writes such ends."""

    def statement(held):
        batch = [Finish(job_id, 1, outcome, state, result="1", entry="{}") for job_id in held]
        (statement,) = finish.finish_statements(batch, **options)
        return statement

    return statement


SUCCEEDED, NOT = (Outcome.SUCCEEDED, State.SUCCEEDED), (Outcome.FAILED, State.FAILED)


def reports(held):
    batch = [Report(job_id, 1, '{"done": 1}', '[{"text": "line"}]') for job_id in held]
    return finish.REPORT, finish.report_parameters(batch)


def renewal(held):
    return liveness.RENEW, {
        "ids": held,
        "lease_epochs": [1] * len(held),
        "unwritten": [False] * len(held),
        "lease_for": LEASE,
    }


def of_queryset(rows):
    sql, parameters = rows.query.sql_with_params()
    return values(sql, *parameters)


def as_django_sends(rows):
    """With its values in the text, as Django's own cursors send it."""
    return connection.ops.compose_sql(*rows.query.sql_with_params()), {}


CALL = {"args": [1], "kwargs": {}, "slots": 1, "unique_while": "unfinished"}


def due_schedules():
    schedules = due.DueSchedules("default")
    schedules.known = {f"schedule {number}" for number in range(1, 50)}
    return schedules


def enqueue_unique(debounce=None):
    """Twenty calls: some keys are taken, some are over, some are new."""
    template = Template("default", "default", "tests.jobs.add", 0, 4)
    kinds = [f"{kind} {number}" for kind in ("retained", "unfinished") for number in range(10, 110, 10)]
    calls = [NewJob(template, "[1]", "{}", None, Unique(key, "waiting", HOUR, debounce)) for key in kinds]
    return unique.statement(list(zip(new_ids(20), calls, strict=True)))


def prune_stats(granularity, hours):
    """Some 3,000 rows are due."""
    return stats.PRUNE, {"granularity": granularity, "older_than": timedelta(hours=hours)}


def written_output(held):
    """As of a run that starts over."""
    return output.WRITE_OUTPUT, {
        "ids": held,
        "lease_epochs": [1] * len(held),
        "places": [9] * len(held),
        "starts": [0] * len(held),
        "texts": ["a"] * len(held),
        "start_over": [True] * len(held),
    }


def values(sql, *parameters):
    """For a statement whose parameters have no names."""
    return sql, dict(zip(positional(sql)[1], parameters, strict=True))


PRIMARY, READY, RUNNING = {"pgonly_job_pkey"}, {"pgonly_job_ready"}, {"pgonly_job_running"}
SUSPECT, SCHEDULED, FINISHED = {"pgonly_job_suspect"}, {"pgonly_job_scheduled"}, {"pgonly_job_finished"}
WORKER_ROW, STEP = {"pgonly_worker_pkey"}, {"pgonly_step_once"}
OUTPUT = {"pgonly_job_output_once"}
CHECKPOINT, QUEUE = {"pgonly_checkpoint_pkey"}, {"pgonly_queue_pkey"}
SCHEDULE, TICK = {"pgonly_schedule_due"}, {"pgonly_tick_once"}
STATS = {"pgonly_job_stats_once"}
DEAD_LETTER, FAILED = {"pgonly_job_dead_letter"}, {"pgonly_job_failed"}


UNIQUE = {"pgonly_job_unique"}
LIMITED, LIMITED_RUNNING = {"pgonly_job_limited"}, {"pgonly_job_limited_running"}
GATE_ROWS = {"pgonly_queue_pkey", "pgonly_queue_tokens_pkey", "pgonly_limiter_pkey"}
LOOKED_AT = READY | LIMITED | LIMITED_RUNNING | SUSPECT
NONE: set[str] = set()

# Name -> SQL and parameters, or a function that makes them for the ids of some running jobs; the indexes it must use,
# and those it also may.
STATEMENTS = {
    "claim, head of all queues": (head_claim(), READY | PRIMARY | SUSPECT, QUEUE),
    "claim, head of given queues": (head_claim("queue 3", "queue 1"), READY | PRIMARY | SUSPECT, QUEUE),
    "claim, floors": (floor_claim(), READY | PRIMARY, QUEUE),
    "claim, head, beside others": (
        head_claim(unknown=["tests.jobs.gone"]),
        READY | PRIMARY | SUSPECT,
        QUEUE | WORKER_ROW,
    ),
    "claim, floors, beside others": (
        floor_claim(unknown=["tests.jobs.gone"]),
        READY | PRIMARY,
        QUEUE | WORKER_ROW,
    ),
    "enqueue, unique": (texts(enqueue_unique()), UNIQUE | PRIMARY),
    "enqueue, debounced": (texts(enqueue_unique(HOUR)), UNIQUE | PRIMARY),
    "limited, gates": (
        (gates.GATES, {"all_queues": True, "queues": []}),
        READY | LIMITED | SUSPECT | RUNNING,
        GATE_ROWS,
    ),
    "limited, look of all queues": (limited_look(), LOOKED_AT),
    "limited, look of given queues": (limited_look("queue 3", "keyed", "limited"), LOOKED_AT),
    "limited, keys": ((gates.KEYS, {"keys": ["flood", "few"]}), LIMITED_RUNNING),
    "limited, candidates of a key": (candidates(GroupKind.KEYED, key="few"), LIMITED, WORKER_ROW),
    "limited, candidates of a flood": (candidates(GroupKind.KEYED, key="flood"), LIMITED, WORKER_ROW),
    "limited, candidates without a key": (candidates(GroupKind.KEYLESS), LIMITED, WORKER_ROW),
    "limited, candidates of a queue": (candidates(GroupKind.PLAIN, "limited"), READY, WORKER_ROW),
    "limited, suspects of a queue": (candidates(GroupKind.SUSPECT, "limited"), SUSPECT, WORKER_ROW),
    "limited, claim": (limited_claimed, PRIMARY),
    "limited, claimed": (lambda held: (limited_claim.CLAIMED, {"ids": held, "worker": WORKER}), PRIMARY),
    "finish, succeeded": (ended(*SUCCEEDED), PRIMARY),
    "finish, anything else": (ended(*NOT), PRIMARY | STEP | CHECKPOINT),
    "finish, succeeded unless locked": (ended(*SUCCEEDED, skip_locked=True), PRIMARY),
    "finish, anything else unless locked": (ended(*NOT, skip_locked=True), PRIMARY | STEP | CHECKPOINT),
    "renew": (renewal, PRIMARY),
    "report": (reports, PRIMARY),
    "cancel requested": (lambda held: (liveness.CANCEL_REQUESTED, {"ids": held}), PRIMARY),
    "claimed by": ((liveness.CLAIMED_BY, {"worker": WORKER}), RUNNING),
    "heartbeat": ((liveness.HEARTBEAT, {"worker": WORKER, "running": 3}), RUNNING | WORKER_ROW),
    "worker requested": ((liveness.REQUESTED, {"worker": WORKER}), WORKER_ROW),
    "fall asleep": ((liveness.FALL_ASLEEP, {"worker": WORKER}), RUNNING | SCHEDULED | WORKER_ROW),
    "worker stopped": ((liveness.STOPPED, {"id": WORKER}), WORKER_ROW),
    "whose": (lambda held: (finish.WHOSE, {"ids": held}), PRIMARY),
    "save checkpoint": (lambda held: values(checkpoints.SAVE_CHECKPOINT, "1", "{}", held[0], 1), PRIMARY),
    "load checkpoint": (lambda held: values(checkpoints.LOAD_CHECKPOINT, held[0]), CHECKPOINT | OUTPUT),
    "find step": (lambda held: values(checkpoints.FIND_STEP, "step 3", held[0], 1), PRIMARY | STEP),
    "write output": (written_output, PRIMARY | OUTPUT),
    "keep output": (
        lambda held: values(output.KEEP_OUTPUT, held[0], ["step a"], [1], [0], ["a"]),
        NONE,
        PRIMARY,
    ),
    "output starts over": (lambda held: values(output.START_OVER, held[0], ["step 1"]), OUTPUT),
    "load output": (lambda held: values(output.LOAD_OUTPUT, held[0]), OUTPUT),
    "read pieces of outputs": (
        lambda held: (
            output.READ_PIECES,
            {"ids": [held[0]], "afters": [2], "places": [3], "given": [1], "sizes": [100]},
        ),
        OUTPUT,
    ),
    "save step": (lambda held: values(checkpoints.SAVE_STEP, "new", "1", held[0], 1), PRIMARY),
    "save paid step": (
        lambda held: values(
            checkpoints.SAVE_PAID_STEP, "new", "1", "0.1", 1, 1, held[0], 1, "p", WORKER, True
        ),
        PRIMARY,
    ),
    "rescue": (
        (rescue.RESCUE, {"lease_for": LEASE, "settle_for": timedelta(0)}),
        RUNNING | PRIMARY | WORKER_ROW | STEP | CHECKPOINT,
    ),
    "end transactions": (
        (
            rescue.END_TRANSACTIONS,
            {"lease_for": LEASE, "settle_for": timedelta(0), "of_any_role": True},
        ),
        RUNNING | WORKER_ROW,
    ),
    "known dead, rescue": (
        (rescue.RESCUE_KNOWN_DEAD, {"workers": [WORKER]}),
        RUNNING | PRIMARY | STEP | CHECKPOINT,
        WORKER_ROW,
    ),
    "known dead, still running": ((rescue.STILL_RUNNING, {"workers": [WORKER]}), RUNNING),
    "known dead, stop": ((rescue.STOP, {"workers": [WORKER]}), NONE, WORKER_ROW),
    "promote": ((promote.PROMOTE, {}), SCHEDULED | PRIMARY),
    "prune": ((prune.PRUNE, {"limit": 1000}), FINISHED | PRIMARY | STEP | CHECKPOINT | OUTPUT),
    "prune, these": (lambda held: (prune.PRUNE_THESE, {"ids": held}), PRIMARY | STEP | CHECKPOINT | OUTPUT),
    "prune, expired": ((prune.EXPIRED, {"limit": 1000}), FINISHED),
    "prune, expire": (lambda held: (prune.EXPIRE, {"ids": held}), PRIMARY),
    "prune, put off": (lambda held: (prune.PUT_OFF, {"id": held[0]}), PRIMARY),
    "last report": (lambda held: (finish.LAST_REPORT, reports(held)[1]), PRIMARY),
    "schedules, next": (lambda _: of_queryset(due_schedules().next()), SCHEDULE),
    "schedules, due": (lambda _: of_queryset(due_schedules().due()), SCHEDULE),
    "ticks, newest runs": (
        lambda _: of_queryset(calls.newest_runs(Schedule(name="schedule 7"), "default")),
        TICK,
    ),
    "ticks, prune": (
        (due.PRUNE_TICKS.sql, {"schedule": "schedule 7", "outcome": "enqueued"}),
        TICK,
        {"pgonly_tick_pkey"},
    ),
    "redrive, page": (lambda _: as_django_sends(redrive_page(Job.objects.failed(), WORKER)), FAILED, UNIQUE),
    "redrive": (lambda held: (failed_jobs.REDRIVE, {"ids": held, "delays": [1.0] * len(held)}), PRIMARY),
    "redrive, calls": (
        lambda held: (
            failed_jobs.WRITE_CALLS,
            {"calls": json.dumps([{"id": each, **CALL} for each in held])},
        ),
        PRIMARY,
        UNIQUE,
    ),
    "dead letters, unsent": ((failed_jobs.UNSENT, {"queue": "dead", "limit": 1000}), DEAD_LETTER),
    "dead letters, sent": (lambda held: (failed_jobs.MARK, {"ids": held}), PRIMARY),
    "dead letters, queues": ((failed_jobs.QUEUES, {}), DEAD_LETTER),
    "health, oldest of all queues": (
        (health.OLDEST_OF_ALL, {}),
        READY | LIMITED | SUSPECT | SCHEDULED,
        QUEUE,
    ),
    "health, oldest of given queues": (
        (health.OLDEST_OF_GIVEN, {"queues": ["queue 3", "keyed"]}),
        READY | LIMITED | SUSPECT | SCHEDULED,
        QUEUE,
    ),
    "health, oldest per queue": ((health.OLDEST_PER_QUEUE, {}), READY | LIMITED | SUSPECT | SCHEDULED),
    "health, latency": (
        lambda held: (health.LATENCY, {"before": held[0], "within": HOUR, "queues": ["queue 3"]}),
        RUNNING | PRIMARY,
    ),
    "health, failures": ((health.FAILURES, {"within": HOUR, "queues": []}), FAILED),
    "waiting": ((promote.WAITING, {}), READY | LIMITED | SUSPECT | SCHEDULED),
    "first of its name": ((liveness.FIRST_OF_ITS_NAME, {"id": WORKER, "part": HOUR}), WORKER_ROW),
    "forget stopped workers": (
        (liveness.FORGET_STOPPED, {"name": "stopped", "older_than": HOUR}),
        WORKER_ROW,
    ),
    "job stats, prune minutes": (prune_stats("minute", 52), STATS, {"pgonly_job_stats_pkey"}),
    "job stats, prune hours": (prune_stats("hour", 780), STATS, {"pgonly_job_stats_pkey"}),
    "forget workers": ((liveness.FORGET, {"older_than": timedelta(days=1)}), WORKER_ROW),
}


def asked(name, held):
    """SQL and parameters of one of STATEMENTS, for the ids of some running jobs."""
    statement = STATEMENTS[name][0]
    return statement(held) if callable(statement) else statement


# Without a plan: what only inserts, and the parts of statements that are put together when they are needed.
INSERTS = {"scheduling.due.NOTE_TICK", "queue.enqueue.INSERT", "queue.enqueue.COPY", "queue.limited.gates.SPEND",
           "queue.liveness.REGISTER", "queue.stats.ADD"}  # fmt: skip
PARTS = {
    "queue.unique.INSERT_UNIQUE",
    "queue.claim.BANDS_OF_GIVEN",
    "queue.claim.HEAD",
    "queue.claim.FLOOR",
    "queue.finish.SUCCEED",
    "queue.finish.FINISH",
    "queue.limited.look.GROUPS",
    "queue.health.OLDEST",
    "queue.limited.claim.CANDIDATES",
}
