"""Every table. Later migrations only add: see tests/test_additive_migrations.py."""

from datetime import UTC, datetime

from django.core.management.base import CommandError
from django.db import migrations
from django.db.models import (
    CASCADE,
    BigAutoField,
    BigIntegerField,
    BinaryField,
    BooleanField,
    CharField,
    CheckConstraint,
    DateTimeField,
    DecimalField,
    DurationField,
    F,
    FloatField,
    ForeignKey,
    Func,
    GeneratedField,
    GenericIPAddressField,
    Index,
    IntegerField,
    JSONField,
    OneToOneField,
    Q,
    SmallIntegerField,
    TextField,
    UniqueConstraint,
    UUIDField,
)
from django.db.models.functions import Now
from django.db.models.lookups import Exact

from pgonly_django.compat import uuid7
from pgonly_django.migrations._operations import CreateSchema
from pgonly_django.models.cache_entry import TextArrayField
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.job_stats import HistogramField
from pgonly_django.models.session import DigestField
from pgonly_django.models.waits import EventKeyField
from pgonly_django.tables import qualified, table

# Room for HOT updates in the pages of rows that are updated often, and a vacuum that comes early and does not pause:
# dead rows are the queue's exhaust. (Defaults: vacuum after 20 % of the table, 2 ms pauses.)
STORAGE = {
    # A claim or a finish that moves a row to another page writes all of it to the WAL, and a lock: 330 bytes instead of
    # 110 to 140. 60 takes 12 % of the WAL of a burst of jobs off, against 80; 40 would take another 11 % off, but then
    # retained jobs take half as much disk again, instead of a quarter.
    # The primary key: each job gets three entries (enqueue, claim, finish). In full pages PostgreSQL looked for dead
    # ones to delete at each insert, 7 % of the server's work for a job. The index has the same size in the end.
    "job": qualified("""ALTER TABLE pgonly_job SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.01,
        autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_cost_delay = 0);
        ALTER INDEX pgonly_job_pkey SET (fillfactor = 50)"""),
    "checkpoint": qualified("ALTER TABLE pgonly_checkpoint SET (fillfactor = 50)"),
    "worker": qualified("ALTER TABLE pgonly_worker SET (fillfactor = 50)"),
    # Every worker updates the rows of the present minute and hour four times a minute.
    "jobstats": qualified("ALTER TABLE pgonly_job_stats SET (fillfactor = 50)"),
    # Every start of a job of a limited queue updates its tokens.
    "queuetokens": qualified("ALTER TABLE pgonly_queue_tokens SET (fillfactor = 50)"),
    "limiter": qualified("ALTER TABLE pgonly_limiter SET (fillfactor = 20)"),
    "limiterslot": qualified("ALTER TABLE pgonly_limiter_slot SET (fillfactor = 50)"),
    # Waiters need no write-ahead log: after a crash of PostgreSQL they take a new ticket.
    "limiterwaiter": qualified("""ALTER TABLE pgonly_limiter_waiter SET UNLOGGED, SET (fillfactor = 50,
        autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0)"""),
    # Every paid call updates its budget twice.
    "budget": qualified("""ALTER TABLE pgonly_budget SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_cost_delay = 1)"""),
    "reservation": qualified("""ALTER TABLE pgonly_reservation SET (fillfactor = 70,
        autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1)"""),
    "session": qualified("""ALTER TABLE pgonly_session SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_cost_delay = 1)"""),
}

# What Django's schema editor cannot say: UNLOGGED, COLLATE "C", storage, expression and partial indexes, and the order
# of the columns.
_ENTRIES = """
    CREATE {kind} TABLE {name} (
        expires_at timestamptz,
        claimed_until timestamptz,
        number bigint,
        claim bigint,
        prune_minute integer,
        codec smallint NOT NULL,
        key text COLLATE "C" PRIMARY KEY,
        value bytea,
        tags text[]
    ) WITH (
        fillfactor = 80,
        autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0,
        toast.autovacuum_vacuum_scale_factor = 0.02,
        toast.autovacuum_vacuum_threshold = 1000,
        toast.autovacuum_vacuum_cost_delay = 0
    );
    ALTER TABLE {name} ALTER value SET STORAGE EXTERNAL;
    CREATE INDEX {name}_prune ON {name} (split_part(key, ':', 1), prune_minute);
    CREATE INDEX {name}_tags ON {name} USING gin (tags) WITH (gin_pending_list_limit = 256)
        WHERE tags IS NOT NULL;
"""
_USAGE_AND_LOCKS = qualified("""
    CREATE UNLOGGED TABLE pgonly_cache_usage (
        name text COLLATE "C" PRIMARY KEY,
        hits bigint NOT NULL,
        misses bigint NOT NULL,
        entries bigint NOT NULL,
        bytes bigint NOT NULL,
        writes bigint NOT NULL,
        written bigint NOT NULL
    ) WITH (fillfactor = 20);
    CREATE SEQUENCE pgonly_cache_lock_token;
    CREATE TABLE pgonly_cache_lock (
        token bigint NOT NULL DEFAULT nextval('pgonly_cache_lock_token'::regclass),
        expires_at timestamptz NOT NULL,
        name text COLLATE "C" PRIMARY KEY,
        holder text COLLATE "C",
        refused text[]
    ) WITH (fillfactor = 50);
    ALTER SEQUENCE pgonly_cache_lock_token OWNED BY pgonly_cache_lock.token;
""")
CACHE = (
    qualified(_ENTRIES.format(name="pgonly_cache", kind="UNLOGGED"))
    + qualified(_ENTRIES.format(name="pgonly_cache_durable", kind=""))
    + _USAGE_AND_LOCKS
)
DROP_CACHE = qualified("DROP TABLE pgonly_cache, pgonly_cache_durable, pgonly_cache_usage, pgonly_cache_lock")

UNIQUE = Q(unique_key__isnull=False) & (
    Q(unique_while="retained")
    | Q(state__in=("scheduled", "ready", "running", "held"))
    & (Q(unique_while="unfinished") | Q(lease_epoch=0))
)
TIMES = (datetime(1000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))
EXPIRES_HOUR = "(floor(extract(epoch FROM (%(expressions)s AT TIME ZONE 'UTC')) / 3600))::integer"


def require_postgresql(apps, schema_editor):  # noqa: ARG001 - the signature of a RunPython
    """Not called where a router keeps the queue out of the database."""
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        raise CommandError(
            f"pgonly_django keeps its tables in PostgreSQL, but DATABASES[{connection.alias!r}] is "
            f"{connection.settings_dict['ENGINE']}. Set its ENGINE to django.db.backends.postgresql, or have a "
            f"database router answer False to allow_migrate({connection.alias!r}, 'pgonly_django')."
        )


def json_is(kind, *columns):
    kinds = (Func(F(name), function="jsonb_typeof", output_field=TextField()) for name in columns)
    return Q(*(Exact(each, kind) for each in kinds))


def meta(db_table, verbose_name, **options):
    return {"db_table": table(db_table), "verbose_name": verbose_name, **options}


def create(name, options, /, **columns):
    return migrations.CreateModel(name, list(columns.items()), options)


def check(name, condition):
    return CheckConstraint(condition=condition, name=name)


def unique(name, *columns, when=None):
    return UniqueConstraint(*columns, condition=when, name=name)


def index(name, *columns, when=None, **options):
    return Index(*columns, condition=when, name=name, **options)


def text(length, help_text="", **options):
    return CharField(help_text=help_text, max_length=length, **options)


def optional(column, help_text="", **options):
    return column(help_text=help_text, null=True, **options)


def clock(help_text="", **options):
    """The time at which the row is made."""
    return DateTimeField(db_default=ClockTimestamp(), help_text=help_text, **options)


def usd(help_text="", **options):
    return DecimalField(decimal_places=6, help_text=help_text, max_digits=18, **options)


def of_job(related_name):
    return ForeignKey(db_index=False, on_delete=CASCADE, related_name=related_name, to="pgonly_django.job")


def capitalized(*names):
    return [(name, name.capitalize()) for name in names]


def declared(declared_at="When a process last confirmed the declaration."):
    """The columns of rows that settings or code declare."""
    newest = "When the newest process that declares it started: older ones change nothing."
    return {
        "name": text(255, **KEY),
        "declared": optional(JSONField, "Declared in settings or code; empty: made by a person."),
        "declared_at": optional(DateTimeField, declared_at, editable=False),
        "declarer_started_at": optional(DateTimeField, newest, editable=False),
        "edited_at": optional(DateTimeField, "When a person changed it; code no longer changes it."),
    }


def entry():
    return {
        "key": TextField(**KEY),
        "value": BinaryField(null=True),
        "number": BigIntegerField(null=True),
        "codec": SmallIntegerField(),
        "expires_at": DateTimeField(null=True),
        "prune_minute": IntegerField(null=True),
        "tags": TextArrayField(null=True),
        "claim": BigIntegerField(null=True),
        "claimed_until": DateTimeField(null=True),
    }


KEY = {"primary_key": True, "serialize": False}
BAND = "queue", F("priority").desc()
PLAIN, LIMITED = Q(slots__isnull=True), Q(slots__isnull=False)
READY, RUNNING, FAILED = Q(state="ready"), Q(state="running"), Q(state="failed")
MEMBER, UNFINISHED = Q(batch_id__isnull=False), Q(state__in=["scheduled", "ready", "running", "held"])
UNSENT = Q(dead_letter_queue__isnull=False) & FAILED & Q(dead_lettered_at__isnull=True)
HAS_LEASE = Q(worker_id__isnull=False, lease_expires_at__isnull=False)
NO_RATE = Q(rate_count__isnull=True, rate_seconds__isnull=True)
A_RATE = Q(
    rate_count__isnull=False,
    rate_seconds__isnull=False,
    rate_count__gte=1,
    rate_seconds__gt=0,
    rate_seconds__lte=3153600000.0,
)
AN_INTERVAL = Q(cron__isnull=True, every_seconds__isnull=False, every_seconds__gte=0.1)
A_LINE = Q(cron__isnull=False, every_seconds__isnull=True)
PERIODS = ["hour", "day", "week", "month", "year"]

TABLES = [
    create(
        "Job",
        meta(
            "pgonly_job",
            "job",
            permissions=[
                ("operate_job", "Can retry, cancel, discard, hold and resume jobs"),
                ("view_job_data", "Can see the arguments, results and tracebacks of jobs"),
            ],
            indexes=[
                index("pgonly_job_ready", *BAND, "ready_at", "id", when=PLAIN & READY & Q(crashes__lt=2)),
                index("pgonly_job_suspect", "ready_at", when=PLAIN & READY & Q(crashes__gte=2)),
                index("pgonly_job_limited", *BAND, "concurrency_key", "ready_at", "id", when=LIMITED & READY),
                index("pgonly_job_limited_running", "concurrency_key", when=LIMITED & RUNNING),
                index("pgonly_job_held", "held_by", "id", when=Q(held_by__isnull=False)),
                index("pgonly_job_enqueued_by", "enqueued_by", "id", when=Q(enqueued_by__isnull=False)),
                index("pgonly_job_batch", "batch_id", "id", when=MEMBER),
                index("pgonly_job_batch_unfinished", "batch_id", when=MEMBER & UNFINISHED),
                index("pgonly_job_dead_letter", "dead_letter_queue", "id", when=UNSENT),
                index("pgonly_job_scheduled", "run_at", when=Q(state="scheduled")),
                index("pgonly_job_running", "queue", when=RUNNING),
                index(
                    "pgonly_job_finished",
                    "delete_after",
                    when=Q(state__in=["succeeded", "failed", "cancelled"]),
                ),
                index("pgonly_job_failed", "finished_at", "id", when=FAILED),
                index("pgonly_job_cancelled", "id", when=Q(state="cancelled")),
            ],
            constraints=[
                unique("pgonly_job_unique", "unique_key", when=UNIQUE),
                check("pgonly_job_running_has_lease", ~RUNNING | HAS_LEASE),
                check("pgonly_job_scheduled_has_time", ~Q(state="scheduled") | Q(run_at__isnull=False)),
                check("pgonly_job_times", Q(run_at__range=TIMES) & Q(delete_after__range=TIMES)),
            ],
        ),
        # The order is for the WAL: of a row that stays in its page, an UPDATE logs what is between the first byte that
        # changes and the last one. What a claim changes, and what a finish changes, stands together: 138 and 107 bytes
        # instead of 186 and 195. The columns after it come by their alignment, so that no padding among them changes.
        id=UUIDField(default=uuid7, editable=False, **KEY),
        queue=text(64, default="default"),
        task=text(255, "The dotted path of the task."),
        backend=text(64, "The alias in TASKS.", default="default"),
        args=JSONField(default=list),
        kwargs=JSONField(default=dict),
        lease_epoch=IntegerField(default=0, help_text="Raised by every claim; fences off older runs."),
        attempt=SmallIntegerField(default=0),
        worker_id=UUIDField(null=True),
        started_at=optional(DateTimeField, "When the first run that began was claimed."),
        attempted_at=optional(DateTimeField, "When its latest run was claimed."),
        state=text(
            16,
            choices=capitalized("scheduled", "ready", "running", "held", "succeeded", "failed", "cancelled"),
            default="ready",
        ),
        lease_expires_at=DateTimeField(null=True),
        finished_at=DateTimeField(null=True),
        delete_after=optional(DateTimeField, "When the finished job is deleted."),
        result=JSONField(null=True),
        enqueued_at=clock(),
        ready_at=clock("Its place in the order of claims: when it became ready, or earlier."),
        ready_again_at=optional(
            DateTimeField, "When it last became ready again at the place that it had kept."
        ),
        run_at=optional(DateTimeField, "It does not start before this time."),
        retention=optional(DurationField, "Kept this long after its end; empty: forever."),
        failed_retention=optional(
            DurationField, "Kept this long after it failed; empty: as retention, at least 90 days."
        ),
        max_runtime=DurationField(null=True),
        unique_until=optional(DateTimeField, "When the key is free again; empty: by state alone."),
        dead_lettered_at=DateTimeField(null=True),
        cancel_requested_at=DateTimeField(null=True),
        reported_at=optional(DateTimeField, "When it last reported progress or a log line."),
        interruptions=IntegerField(default=0, help_text="Planned stops; they use up no attempt."),
        priority=SmallIntegerField(default=0, help_text="-100 to 100, larger first."),
        max_attempts=SmallIntegerField(default=8),
        crashes=SmallIntegerField(default=0, help_text="Worker deaths that it is suspected of."),
        slots=optional(
            SmallIntegerField, "Threads of its worker that it occupies; empty: one, and no concurrency key."
        ),
        concurrency_limit=optional(SmallIntegerField, "Maximum jobs of the key at a time."),
        options=optional(JSONField, "Set by .using() for this job alone."),
        metadata=optional(JSONField, "Carried beside its arguments."),
        then_job=optional(JSONField, "The job that is enqueued when it succeeds."),
        errors=JSONField(default=list, help_text="The last attempts that did not succeed."),
        log=JSONField(default=list, help_text="The last lines the job logged."),
        progress=optional(JSONField, "done, total and message."),
        concurrency_key=text(255, "The key its limit counts.", null=True),
        unique_key=text(255, "No second job may have it.", null=True),
        unique_while=text(
            16,
            "The states in which the key counts.",
            choices=capitalized("waiting", "unfinished", "retained"),
            null=True,
        ),
        dead_letter_queue=text(64, "Its task is called when the job has failed.", null=True),
        held_by=text(255, "Its holder, such as a budget.", null=True),
        enqueued_by=text(264, "The job, schedule or batch that it comes from; empty: other code.", null=True),
        batch_id=optional(UUIDField, "The batch that it is a member of."),
    ),
    create(
        "JobBatch",
        meta(
            "pgonly_batch",
            "batch",
            verbose_name_plural="batches",
            indexes=[
                index("pgonly_batch_open", "id", when=Q(finished_at__isnull=True)),
                index("pgonly_batch_expired", "delete_after", when=Q(delete_after__isnull=False)),
            ],
            constraints=[unique("pgonly_batch_once", "parent", "name", when=Q(parent__isnull=False))],
        ),
        id=UUIDField(default=uuid7, editable=False, **KEY),
        parent=ForeignKey(
            db_index=False,
            help_text="The job whose gather() waits for it.",
            null=True,
            on_delete=CASCADE,
            related_name="batches",
            to="pgonly_django.job",
        ),
        name=text(255, "That of the Batch() or of the gather().", blank=True),
        made_by=text(64, 'The job that has made it: "job:<id>".', blank=True, db_default=""),
        size=optional(IntegerField, "How many members the gather() has enqueued."),
        callbacks=JSONField(default=dict, help_text="The jobs that its end enqueues, as rows."),
        sent=JSONField(default=dict, help_text="The ids of those that it has enqueued."),
        closes=IntegerField(default=0, help_text="How often it has finished: a retry reopens it."),
        created_at=DateTimeField(db_default=Now()),
        cancelled_at=DateTimeField(null=True),
        finished_at=optional(DateTimeField, "Empty: it is open."),
        delete_after=optional(DateTimeField, "When it goes, unless it has members."),
    ),
    create(
        "Step",
        meta("pgonly_step", "step", constraints=[unique("pgonly_step_once", "job", "name")]),
        id=BigAutoField(**KEY),
        job=of_job("steps"),
        name=text(255),
        result=JSONField(null=True),
        started_at=optional(DateTimeField, "When the call began."),
        finished_at=clock(),
        usd=usd("What it has cost, in US dollars.", null=True),
        tokens_in=BigIntegerField(null=True),
        tokens_out=BigIntegerField(null=True),
    ),
    create(
        "Checkpoint",
        meta("pgonly_checkpoint", "checkpoint"),
        job=OneToOneField(on_delete=CASCADE, related_name="checkpoint", to="pgonly_django.job", **KEY),
        value=optional(JSONField, "What the job saved."),
        positions=JSONField(default=dict, help_text="Items that each iterate() has finished."),
        saved_at=clock(),
    ),
    create(
        "JobOutput",
        meta(
            "pgonly_job_output",
            "output of a job",
            verbose_name_plural="outputs of jobs",
            constraints=[unique("pgonly_job_output_once", "job", "part", "place")],
        ),
        id=BigAutoField(**KEY),
        job=of_job("outputs"),
        part=text(
            264,
            "Empty: what readers see. Otherwise a step or loop whose text later runs repeat.",
            blank=True,
        ),
        place=BigIntegerField(help_text="The order of the rows: lease_epoch * 2^32 and a number."),
        start=IntegerField(help_text="Characters of the earlier text that stay."),
        text=TextField(),
    ),
    create(
        "Event",
        meta(
            "pgonly_event",
            "event",
            indexes=[
                index("pgonly_event_undelivered", "sent_at", when=Q(is_delivered=False)),
                index("pgonly_event_expires", "expires_at"),
            ],
        ),
        key=EventKeyField(max_length=240, **KEY),
        payload=optional(JSONField, "What the jobs get that wait for it."),
        sent_at=clock(),
        expires_at=DateTimeField(help_text="After this it is deleted, unless a job waits for it."),
        is_delivered=BooleanField(
            db_default=False, default=False, help_text="The jobs that waited for it have been woken."
        ),
        is_choice=BooleanField(
            db_default=False, default=False, help_text="A person has chosen it among the choices of a wait."
        ),
    ),
    create(
        "Wait",
        meta(
            "pgonly_wait",
            "wait",
            verbose_name_plural="waiting for people",
            indexes=[
                index("pgonly_wait_key", "key", when=Q(key__isnull=False)),
                index(
                    "pgonly_wait_asked", "began_at", when=Q(key__isnull=False) & ~Q(question="", choices=[])
                ),
                index("pgonly_wait_kept", "kept_key", when=Q(kept_key__isnull=False)),
            ],
            constraints=[unique("pgonly_wait_once", "job", "name")],
        ),
        id=BigAutoField(**KEY),
        job=of_job("waits"),
        name=text(255, "The step that keeps the answer."),
        key=text(240, "The key of the event; empty: it waits for a time.", null=True),
        until=optional(DateTimeField, "The deadline; empty: none."),
        began_at=clock(),
        lease_epoch=IntegerField(help_text="The run of the job that waits."),
        choices=JSONField(default=list, help_text="The answers that a person may choose from."),
        question=TextField(blank=True, default="", help_text="What a person is asked."),
        kept_key=text(255, "The concurrency key that its job keeps; empty: none.", null=True),
    ),
    create(
        "Worker",
        meta(
            "pgonly_worker",
            "worker",
            permissions=[("operate_worker", "Can stop and drain workers")],
            constraints=[check("pgonly_worker_queues", json_is("array", "queues"))],
        ),
        id=UUIDField(default=uuid7, editable=False, **KEY),
        name=text(128),
        hostname=text(255),
        pid=IntegerField(),
        queues=JSONField(default=list, help_text="In serving order; empty: all."),
        threads=SmallIntegerField(),
        running=IntegerField(default=0),
        started_at=clock(),
        heartbeat_at=clock(),
        stopped_at=DateTimeField(null=True),
        sleeping_since=optional(DateTimeField, "It has no connection since then."),
        version=text(64, "The version of pgonly-django."),
        python=text(32, "The version of Python.", blank=True, db_default=""),
        release=text(128, 'The release of the project: PGONLY["RELEASE"].', blank=True, db_default=""),
        memory_mb=optional(JSONField, "In MB, once a minute, of the last hour; the newest last."),
        stop_requested_at=optional(DateTimeField, "It was asked to stop, and to give its jobs back."),
        drain_requested_at=optional(DateTimeField, "It was asked to end after its jobs are done."),
    ),
    create(
        "JobStats",
        meta(
            "pgonly_job_stats",
            "job statistics",
            verbose_name_plural="job statistics",
            constraints=[
                UniqueConstraint(
                    fields=("granularity", "starts_at", "queue", "task"), name="pgonly_job_stats_once"
                )
            ],
        ),
        id=BigAutoField(auto_created=True, verbose_name="ID", **KEY),
        granularity=text(8, choices=capitalized("minute", "hour")),
        starts_at=DateTimeField(),
        queue=text(64),
        task=text(255),
        succeeded=BigIntegerField(default=0),
        failed=BigIntegerField(default=0, help_text="The job has ended as failed."),
        retried=BigIntegerField(default=0, help_text="The attempt failed; the job continues."),
        interrupted=BigIntegerField(default=0, help_text="Released by a planned stop."),
        crashed=BigIntegerField(default=0, help_text="Its worker died."),
        waiting_times=HistogramField(default=list, help_text="From ready to the start of the run."),
        run_times=HistogramField(default=list),
    ),
    create(
        "Queue",
        meta(
            "pgonly_queue",
            "queue",
            permissions=[("operate_queue", "Can pause, resume and change queues")],
            constraints=[
                check("pgonly_queue_max_running", Q(max_running__isnull=True) | Q(max_running__gte=1)),
                check("pgonly_queue_rate", NO_RATE | A_RATE),
            ],
        ),
        **declared(),
        max_running=optional(
            IntegerField,
            "Maximum jobs at a time, across all workers.",
            blank=True,
            verbose_name="running at most",
        ),
        rate_count=optional(
            IntegerField, "Maximum jobs that start per period ...", blank=True, verbose_name="starts"
        ),
        rate_seconds=optional(FloatField, "... of this many seconds.", blank=True, verbose_name="period"),
        limiter=text(255, "While it cools down, no job of the queue starts.", blank=True, null=True),
        paused_at=DateTimeField(blank=True, null=True),
    ),
    create(
        "QueueTokens",
        meta("pgonly_queue_tokens", "tokens of a queue", verbose_name_plural="tokens of queues"),
        queue=text(255, **KEY),
        tokens=FloatField(help_text="Jobs that may start at once."),
        refilled_at=DateTimeField(),
    ),
    create(
        "Limiter",
        meta(
            "pgonly_limiter",
            "limiter",
            permissions=[("operate_limiter", "Can cool down limiters and change their limits")],
            constraints=[
                check("pgonly_limiter_concurrent", Q(concurrent__isnull=True) | Q(concurrent__gte=1)),
                check(
                    "pgonly_limiter_requests",
                    Q(requests_per_minute__isnull=True) | Q(requests_per_minute__gt=0),
                ),
                check(
                    "pgonly_limiter_tokens", Q(tokens_per_minute__isnull=True) | Q(tokens_per_minute__gt=0)
                ),
            ],
        ),
        **declared(),
        concurrent=optional(IntegerField, "Maximum calls at a time.", blank=True),
        requests_per_minute=FloatField(blank=True, null=True),
        tokens_per_minute=FloatField(blank=True, null=True),
        requests=FloatField(editable=False, null=True),
        tokens=FloatField(editable=False, null=True),
        refilled_at=DateTimeField(editable=False, null=True),
        blocked_until=optional(DateTimeField, "No caller gets in before this time.", editable=False),
    ),
    create(
        "LimiterSlot",
        meta(
            "pgonly_limiter_slot",
            "limiter slot",
            indexes=[index("pgonly_limiter_slot_holder", "holder", when=Q(holder__isnull=False))],
            constraints=[unique("pgonly_limiter_slot_number", "limiter", "number")],
        ),
        id=BigAutoField(**KEY),
        limiter=text(255),
        number=IntegerField(),
        holder=UUIDField(null=True),
        who=text(255, blank=True),
        taken_at=DateTimeField(null=True),
        expires_at=DateTimeField(null=True),
    ),
    create(
        "LimiterWaiter",
        meta(
            "pgonly_limiter_waiter",
            "limiter waiter",
            indexes=[index("pgonly_limiter_waiter_next", "limiter", "ticket")],
        ),
        ticket=BigAutoField(**KEY),
        id=UUIDField(unique=True),
        limiter=text(255),
        who=text(255, blank=True),
        tokens=BigIntegerField(),
        since=clock(),
        expires_at=DateTimeField(),
    ),
    create(
        "Budget",
        meta(
            "pgonly_budget",
            "budget",
            permissions=[("operate_budget", "Can change caps, and resume what budgets hold")],
            constraints=[
                check("pgonly_budget_per", Q(per__isnull=True) | Q(per__in=PERIODS)),
                check("pgonly_budget_usd", Q(usd__gte=0)),
            ],
        ),
        **declared(),
        usd=usd("Spent plus reserved never exceed it.", verbose_name="cap in USD"),
        per=text(8, "Empty: the cap is for all time.", blank=True, choices=capitalized(*PERIODS), null=True),
        timezone=text(64, "The period begins at its midnight.", default="UTC"),
        spent=usd(db_default=0, default=0, editable=False),
        reserved=usd("Reserved by calls under way.", db_default=0, default=0, editable=False),
        period_start=optional(DateTimeField, "When the period of `spent` began.", editable=False),
        resumed_at=DateTimeField(editable=False, null=True),
    ),
    create(
        "Reservation",
        meta(
            "pgonly_reservation",
            "reservation",
            indexes=[index("pgonly_reservation_expiry", "is_expired", "expires_at")],
        ),
        id=UUIDField(**KEY),
        budget=text(255),
        usd=usd(),
        job_id=UUIDField(null=True),
        task=text(255, db_default="", default=""),
        queue=text(64, db_default="", default=""),
        step=text(255, db_default="", default=""),
        made_at=clock(),
        expires_at=DateTimeField(),
        is_expired=BooleanField(db_default=False, default=False),
    ),
    create(
        "CostEntry",
        meta(
            "pgonly_cost",
            "cost",
            verbose_name_plural="costs",
            indexes=[
                index("pgonly_cost_at", "at", include=["usd"]),
                index("pgonly_cost_budget", "budget", "at", when=~Q(budget="")),
                index("pgonly_cost_job", "job_id", when=Q(job_id__isnull=False)),
            ],
            constraints=[unique("pgonly_cost_reservation", "reservation", when=Q(reservation__isnull=False))],
        ),
        id=BigAutoField(**KEY),
        at=clock(),
        job_id=UUIDField(null=True),
        task=text(255, db_default="", default=""),
        queue=text(64, db_default="", default=""),
        budget=text(255, db_default="", default=""),
        step=text(255, db_default="", default=""),
        usd=usd(),
        tokens_in=BigIntegerField(null=True),
        tokens_out=BigIntegerField(null=True),
        model=text(255, "Of a language model: its name.", db_default="", default=""),
        is_estimate=BooleanField(
            db_default=False,
            default=False,
            help_text="The reserved amount: the call never said what it cost.",
        ),
        reservation=UUIDField(null=True),
    ),
    create(
        "Schedule",
        meta(
            "pgonly_schedule",
            "schedule",
            permissions=[("operate_schedule", "Can pause, resume and run schedules")],
            indexes=[index("pgonly_schedule_due", "next_at", when=Q(paused_at=None))],
            constraints=[
                check("pgonly_schedule_has_one_timing", AN_INTERVAL | A_LINE),
                check("pgonly_schedule_json", json_is("array", "args") & json_is("object", "kwargs")),
            ],
        ),
        **declared("When a worker last found it in its code."),
        task=text(255, "The dotted path of the task."),
        args=JSONField(blank=True, default=list),
        kwargs=JSONField(blank=True, default=dict),
        queue=text(64, "Empty: the task's own.", blank=True, null=True),
        priority=optional(SmallIntegerField, "Empty: the task's own.", blank=True),
        cron=text(255, 'Such as "0 3 * * *": minute hour day month weekday.', blank=True, null=True),
        timezone=text(64, "The time zone of the cron line.", default="UTC"),
        every_seconds=optional(FloatField, "Instead of a cron line.", blank=True),
        catch_up=text(
            16,
            "Which of the ticks run that passed while no worker ran.",
            choices=[
                ("latest", "Run the latest one"),
                ("all", "Run all of them"),
                ("none", "Run none of them"),
            ],
            default="latest",
        ),
        overlap=text(
            16,
            "What a tick does while an earlier run is unfinished.",
            choices=[
                ("skip", "Skip the tick"),
                ("allow", "Run side by side"),
                ("replace", "Cancel the earlier run"),
            ],
            default="skip",
        ),
        budget=text(255, "The budget that pays for its jobs.", blank=True, null=True),
        metadata=optional(JSONField, "The metadata of its jobs: a JSON object.", blank=True),
        paused_at=DateTimeField(editable=False, null=True),
        next_at=optional(
            DateTimeField,
            "Its next tick; empty: none.",
            default=datetime(1970, 1, 1, tzinfo=UTC),
            editable=False,
        ),
        last_tick_at=DateTimeField(editable=False, null=True),
        created_at=clock(editable=False),
        problem=optional(TextField, "Why its last tick could not be enqueued.", editable=False),
    ),
    create(
        "Tick",
        meta("pgonly_tick", "tick", constraints=[unique("pgonly_tick_once", "schedule", "tick_at")]),
        id=BigAutoField(auto_created=True, verbose_name="ID", **KEY),
        schedule=ForeignKey(
            db_index=False, on_delete=CASCADE, related_name="ticks", to="pgonly_django.schedule"
        ),
        tick_at=DateTimeField(help_text="When it was due."),
        at=clock("When a worker handled it."),
        outcome=text(16, choices=capitalized("enqueued", "skipped"), default="enqueued"),
        reason=text(255, "Why it was skipped.", default=""),
        job_id=optional(UUIDField, "Its job, which may have been pruned."),
        by_person=BooleanField(default=False),
    ),
    create(
        "Session",
        meta(
            "pgonly_session",
            "session",
            verbose_name_plural="sessions",
            permissions=[("view_session_data", "Can view the data inside sessions")],
            indexes=[
                Index(condition=Q(user_id__isnull=False), fields=["user_id"], name="pgonly_session_user"),
                Index(fields=["expires_hour"], name="pgonly_session_expires"),
            ],
        ),
        key_hash=DigestField(editable=False, verbose_name="key hash", **KEY),
        data=JSONField(null=True, verbose_name="data"),
        user_id=TextField(null=True, verbose_name="user id"),
        created_at=DateTimeField(db_default=Now(), verbose_name="created at"),
        last_seen_at=DateTimeField(null=True, verbose_name="last seen at"),
        expires_at=DateTimeField(verbose_name="expires at"),
        expires_hour=GeneratedField(
            db_persist=True,
            expression=Func("expires_at", output_field=IntegerField(), template=EXPIRES_HOUR),
            output_field=IntegerField(),
        ),
        ip=GenericIPAddressField(null=True, verbose_name="IP address"),
        user_agent=TextField(db_default="", default="", verbose_name="user agent"),
    ),
]
CACHE_TABLES = [
    create("CacheEntry", meta("pgonly_cache", "cache entry", verbose_name_plural="cache entries"), **entry()),
    create(
        "DurableCacheEntry",
        meta("pgonly_cache_durable", "durable cache entry", verbose_name_plural="durable cache entries"),
        **entry(),
    ),
    create(
        "CacheUsage",
        meta("pgonly_cache_usage", "cache usage", verbose_name_plural="cache usage"),
        name=TextField(**KEY),
        **{name: BigIntegerField() for name in ("hits", "misses", "entries", "bytes", "writes", "written")},
    ),
    create(
        "CacheLock",
        meta("pgonly_cache_lock", "cache lock"),
        name=TextField(**KEY),
        token=BigIntegerField(),
        expires_at=DateTimeField(),
        holder=TextField(null=True),
        refused=TextArrayField(null=True),
    ),
]


def page(name, of, **options):
    """A proxy, which has no table: see models/pages.py."""
    words = dict.fromkeys(("verbose_name", "verbose_name_plural"), name.lower())
    options |= {"proxy": True, "default_permissions": (), "indexes": [], "constraints": [], **words}
    return migrations.CreateModel(name, fields=[], options=options, bases=(f"pgonly_django.{of}",))


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        CreateSchema(),
        migrations.RunPython(require_postgresql, migrations.RunPython.noop, hints={"model_name": "job"}),
        *TABLES,
        page("Overview", "job"),
        page("Doctor", "worker", permissions=[("view_doctor", "Can see the findings of the doctor")]),
        migrations.RunSQL(
            CACHE, DROP_CACHE, state_operations=CACHE_TABLES, hints={"model_name": "cacheentry"}
        ),
        *(
            migrations.RunSQL(sql, migrations.RunSQL.noop, hints={"model_name": name})
            for name, sql in STORAGE.items()
        ),
    ]
