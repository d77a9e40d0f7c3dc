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
from pgonly_django.tables import qualified, table

# Room for HOT updates in the pages of rows that are updated often, and a vacuum that comes early and does not pause:
# dead rows are the queue's exhaust. (Defaults: vacuum after 20 % of the table, 2 ms pauses.)
STORAGE = {
    # A claim or a finish that moves a row to another page writes all of it to the WAL, and a lock: 330 bytes instead of
    # 110 to 140. 60 takes 12 % of the WAL of a burst of jobs off, against 80; 40 would take another 11 % off, but then
    # retained jobs take half as much disk again, instead of a quarter.
    "job": qualified("""ALTER TABLE pgonly_job SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.01,
        autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_cost_delay = 0)"""),
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
    """Where a router keeps the queue away, it is not called."""
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


def _declared(declared_at="When a process last said so."):
    """The columns of rows that settings or code declare."""
    return {
        "name": CharField(max_length=255, primary_key=True, serialize=False),
        "declared": JSONField(help_text="What settings or code say; empty: made by a person.", null=True),
        "declared_at": DateTimeField(editable=False, help_text=declared_at, null=True),
        "declarer_started_at": DateTimeField(
            editable=False,
            help_text="When the newest process that says so had started: older ones change nothing.",
            null=True,
        ),
        "edited_at": DateTimeField(help_text="When a person changed it; code changes it no more.", null=True),
    }


def _entry_columns():
    return {
        "key": TextField(primary_key=True, serialize=False),
        "value": BinaryField(null=True),
        "number": BigIntegerField(null=True),
        "codec": SmallIntegerField(),
        "expires_at": DateTimeField(null=True),
        "prune_minute": IntegerField(null=True),
        "tags": TextArrayField(null=True),
        "claim": BigIntegerField(null=True),
        "claimed_until": DateTimeField(null=True),
    }


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
                Index(
                    "queue",
                    F("priority").desc(),
                    "ready_at",
                    "id",
                    condition=Q(slots__isnull=True) & Q(state="ready") & Q(crashes__lt=2),
                    name="pgonly_job_ready",
                ),
                Index(
                    "ready_at",
                    condition=Q(slots__isnull=True) & Q(state="ready") & Q(crashes__gte=2),
                    name="pgonly_job_suspect",
                ),
                Index(
                    "queue",
                    F("priority").desc(),
                    "concurrency_key",
                    "ready_at",
                    "id",
                    condition=Q(slots__isnull=False) & Q(state="ready"),
                    name="pgonly_job_limited",
                ),
                Index(
                    "concurrency_key",
                    condition=Q(slots__isnull=False) & Q(state="running"),
                    name="pgonly_job_limited_running",
                ),
                Index("held_by", "id", condition=Q(held_by__isnull=False), name="pgonly_job_held"),
                Index(
                    "dead_letter_queue",
                    "id",
                    condition=Q(dead_letter_queue__isnull=False)
                    & Q(state="failed")
                    & Q(dead_lettered_at__isnull=True),
                    name="pgonly_job_dead_letter",
                ),
                Index("run_at", condition=Q(state="scheduled"), name="pgonly_job_scheduled"),
                Index("queue", condition=Q(state="running"), name="pgonly_job_running"),
                Index(
                    "delete_after",
                    condition=Q(state__in=["succeeded", "failed", "cancelled"]),
                    name="pgonly_job_finished",
                ),
                Index("id", condition=Q(state="failed"), name="pgonly_job_failed"),
                Index("id", condition=Q(state="cancelled"), name="pgonly_job_cancelled"),
            ],
            constraints=[
                UniqueConstraint("unique_key", condition=UNIQUE, name="pgonly_job_unique"),
                CheckConstraint(
                    condition=~Q(state="running")
                    | Q(worker_id__isnull=False, lease_expires_at__isnull=False),
                    name="pgonly_job_running_has_lease",
                ),
                CheckConstraint(
                    condition=~Q(state="scheduled") | Q(run_at__isnull=False),
                    name="pgonly_job_scheduled_has_time",
                ),
                CheckConstraint(
                    condition=Q(run_at__range=TIMES) & Q(delete_after__range=TIMES), name="pgonly_job_times"
                ),
            ],
        ),
        # The order is for the WAL: of a row that stays in its page, an UPDATE logs what is between the first byte that
        # changes and the last one. What a claim changes, and what a finish changes, stands together: 138 and 107 bytes
        # instead of 186 and 195. The columns after it come by their alignment, so that no padding among them changes.
        id=UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False),
        queue=CharField(default="default", max_length=64),
        task=CharField(help_text="The dotted path of the task.", max_length=255),
        backend=CharField(default="default", help_text="The alias in TASKS.", max_length=64),
        args=JSONField(default=list),
        kwargs=JSONField(default=dict),
        lease_epoch=IntegerField(default=0, help_text="Raised by every claim; fences older runs off."),
        attempt=SmallIntegerField(default=0),
        worker_id=UUIDField(null=True),
        started_at=DateTimeField(help_text="When the first run that began was claimed.", null=True),
        attempted_at=DateTimeField(help_text="When its latest run was claimed.", null=True),
        state=CharField(
            choices=[
                ("scheduled", "Scheduled"),
                ("ready", "Ready"),
                ("running", "Running"),
                ("held", "Held"),
                ("succeeded", "Succeeded"),
                ("failed", "Failed"),
                ("cancelled", "Cancelled"),
            ],
            default="ready",
            max_length=16,
        ),
        lease_expires_at=DateTimeField(null=True),
        finished_at=DateTimeField(null=True),
        delete_after=DateTimeField(help_text="When the finished job is deleted.", null=True),
        result=JSONField(null=True),
        enqueued_at=DateTimeField(db_default=ClockTimestamp()),
        ready_at=DateTimeField(
            db_default=ClockTimestamp(), help_text="Its place in the order of claims: when it became ready."
        ),
        ready_again_at=DateTimeField(
            help_text="When it last became ready again at the place that it had kept.", null=True
        ),
        run_at=DateTimeField(help_text="Not before this time.", null=True),
        retention=DurationField(help_text="Kept this long once finished; empty: for ever.", null=True),
        failed_retention=DurationField(help_text="The same for a failed job; empty: 90 days.", null=True),
        max_runtime=DurationField(null=True),
        unique_until=DateTimeField(help_text="When the key is free again; empty: by state alone.", null=True),
        dead_lettered_at=DateTimeField(null=True),
        cancel_requested_at=DateTimeField(null=True),
        reported_at=DateTimeField(help_text="When it last reported progress or a log line.", null=True),
        interruptions=IntegerField(default=0, help_text="Planned stops; they cost no attempt."),
        priority=SmallIntegerField(default=0, help_text="-100 to 100, larger first."),
        max_attempts=SmallIntegerField(default=8),
        crashes=SmallIntegerField(default=0, help_text="Deaths of its worker that it is suspected of."),
        slots=SmallIntegerField(
            help_text="Threads that it takes up in its worker; empty: one, and no concurrency key.", null=True
        ),
        concurrency_limit=SmallIntegerField(help_text="So many jobs of the key run at a time.", null=True),
        options=JSONField(help_text="What .using() set for this job alone.", null=True),
        metadata=JSONField(help_text="What goes with its call beside the arguments.", null=True),
        errors=JSONField(default=list, help_text="The last attempts that did not succeed."),
        log=JSONField(default=list, help_text="The last lines the job logged."),
        progress=JSONField(help_text="done, total and message.", null=True),
        concurrency_key=CharField(help_text="What its limit counts.", max_length=255, null=True),
        unique_key=CharField(help_text="No second job may have it.", max_length=255, null=True),
        unique_while=CharField(
            choices=[("waiting", "Waiting"), ("unfinished", "Unfinished"), ("retained", "Retained")],
            help_text="In which states the key counts.",
            max_length=16,
            null=True,
        ),
        dead_letter_queue=CharField(
            help_text="Whose task is told when the job has failed.", max_length=64, null=True
        ),
        held_by=CharField(help_text="What holds it, such as a budget.", max_length=255, null=True),
    ),
    create(
        "Step",
        meta("pgonly_step", "step", constraints=[UniqueConstraint("job", "name", name="pgonly_step_once")]),
        id=BigAutoField(primary_key=True, serialize=False),
        job=ForeignKey(db_index=False, on_delete=CASCADE, related_name="steps", to="pgonly_django.job"),
        name=CharField(max_length=255),
        result=JSONField(null=True),
        finished_at=DateTimeField(db_default=ClockTimestamp()),
        usd=DecimalField(
            decimal_places=6, help_text="What it has cost, in US dollars.", max_digits=18, null=True
        ),
        tokens_in=BigIntegerField(null=True),
        tokens_out=BigIntegerField(null=True),
    ),
    create(
        "Checkpoint",
        meta("pgonly_checkpoint", "checkpoint"),
        job=OneToOneField(
            on_delete=CASCADE,
            primary_key=True,
            related_name="checkpoint",
            serialize=False,
            to="pgonly_django.job",
        ),
        value=JSONField(help_text="What the job saved.", null=True),
        positions=JSONField(default=dict, help_text="How many items each iterate() has behind it."),
        saved_at=DateTimeField(db_default=ClockTimestamp()),
    ),
    create(
        "JobOutput",
        meta(
            "pgonly_job_output",
            "output of a job",
            verbose_name_plural="outputs of jobs",
            constraints=[UniqueConstraint("job", "part", "place", name="pgonly_job_output_once")],
        ),
        id=BigAutoField(primary_key=True, serialize=False),
        job=ForeignKey(db_index=False, on_delete=CASCADE, related_name="outputs", to="pgonly_django.job"),
        part=CharField(
            blank=True,
            help_text="Empty: what readers see. Else whose text a later run says again: a step, a loop.",
            max_length=264,
        ),
        place=BigIntegerField(help_text="The order of the rows: lease_epoch * 2^32 and a number."),
        start=IntegerField(help_text="So many characters stay of what was there before."),
        text=TextField(),
    ),
    create(
        "Worker",
        meta(
            "pgonly_worker",
            "worker",
            permissions=[
                ("operate_worker", "Can stop and drain workers"),
                ("view_doctor", "Can see what the doctor finds"),
            ],
            constraints=[CheckConstraint(condition=json_is("array", "queues"), name="pgonly_worker_queues")],
        ),
        id=UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False),
        name=CharField(max_length=128),
        hostname=CharField(max_length=255),
        pid=IntegerField(),
        queues=JSONField(default=list, help_text="In serving order; empty: all."),
        threads=SmallIntegerField(),
        running=IntegerField(default=0),
        started_at=DateTimeField(db_default=ClockTimestamp()),
        heartbeat_at=DateTimeField(db_default=ClockTimestamp()),
        stopped_at=DateTimeField(null=True),
        sleeping_since=DateTimeField(help_text="It has no connection since then.", null=True),
        version=CharField(help_text="Of pgonly-django.", max_length=64),
        stop_requested_at=DateTimeField(
            help_text="It was asked to stop, and to give its jobs back.", null=True
        ),
        drain_requested_at=DateTimeField(help_text="It was asked to end once its jobs are done.", null=True),
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
        id=BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
        granularity=CharField(choices=[("minute", "Minute"), ("hour", "Hour")], max_length=8),
        starts_at=DateTimeField(),
        queue=CharField(max_length=64),
        task=CharField(max_length=255),
        succeeded=BigIntegerField(default=0),
        failed=BigIntegerField(default=0, help_text="The job has ended as failed."),
        retried=BigIntegerField(default=0, help_text="The attempt failed, the job goes on."),
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
                CheckConstraint(
                    condition=Q(max_running__isnull=True) | Q(max_running__gte=1),
                    name="pgonly_queue_max_running",
                ),
                CheckConstraint(
                    condition=Q(rate_count__isnull=True, rate_seconds__isnull=True)
                    | Q(
                        rate_count__isnull=False,
                        rate_seconds__isnull=False,
                        rate_count__gte=1,
                        rate_seconds__gt=0,
                        rate_seconds__lte=3153600000.0,
                    ),
                    name="pgonly_queue_rate",
                ),
            ],
        ),
        **_declared(),
        max_running=IntegerField(
            blank=True,
            help_text="Jobs at a time, over all workers.",
            null=True,
            verbose_name="running at most",
        ),
        rate_count=IntegerField(
            blank=True, help_text="So many jobs start per period ...", null=True, verbose_name="starts"
        ),
        rate_seconds=FloatField(
            blank=True, help_text="... of so many seconds.", null=True, verbose_name="period"
        ),
        limiter=CharField(
            blank=True,
            help_text="While it cools down, no job of the queue starts.",
            max_length=255,
            null=True,
        ),
        paused_at=DateTimeField(blank=True, null=True),
    ),
    create(
        "QueueTokens",
        meta("pgonly_queue_tokens", "tokens of a queue", verbose_name_plural="tokens of queues"),
        queue=CharField(max_length=255, primary_key=True, serialize=False),
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
                CheckConstraint(
                    condition=Q(concurrent__isnull=True) | Q(concurrent__gte=1),
                    name="pgonly_limiter_concurrent",
                ),
                CheckConstraint(
                    condition=Q(requests_per_minute__isnull=True) | Q(requests_per_minute__gt=0),
                    name="pgonly_limiter_requests",
                ),
                CheckConstraint(
                    condition=Q(tokens_per_minute__isnull=True) | Q(tokens_per_minute__gt=0),
                    name="pgonly_limiter_tokens",
                ),
            ],
        ),
        **_declared(),
        concurrent=IntegerField(blank=True, help_text="So many at a time.", null=True),
        requests_per_minute=FloatField(blank=True, null=True),
        tokens_per_minute=FloatField(blank=True, null=True),
        requests=FloatField(editable=False, null=True),
        tokens=FloatField(editable=False, null=True),
        refilled_at=DateTimeField(editable=False, null=True),
        blocked_until=DateTimeField(editable=False, help_text="No caller gets in before.", null=True),
    ),
    create(
        "LimiterSlot",
        meta(
            "pgonly_limiter_slot",
            "limiter slot",
            indexes=[Index("holder", condition=Q(holder__isnull=False), name="pgonly_limiter_slot_holder")],
            constraints=[UniqueConstraint("limiter", "number", name="pgonly_limiter_slot_number")],
        ),
        id=BigAutoField(primary_key=True, serialize=False),
        limiter=CharField(max_length=255),
        number=IntegerField(),
        holder=UUIDField(null=True),
        who=CharField(blank=True, max_length=255),
        taken_at=DateTimeField(null=True),
        expires_at=DateTimeField(null=True),
    ),
    create(
        "LimiterWaiter",
        meta(
            "pgonly_limiter_waiter",
            "limiter waiter",
            indexes=[Index("limiter", "ticket", name="pgonly_limiter_waiter_next")],
        ),
        ticket=BigAutoField(primary_key=True, serialize=False),
        id=UUIDField(unique=True),
        limiter=CharField(max_length=255),
        who=CharField(blank=True, max_length=255),
        tokens=BigIntegerField(),
        since=DateTimeField(db_default=ClockTimestamp()),
        expires_at=DateTimeField(),
    ),
    create(
        "Budget",
        meta(
            "pgonly_budget",
            "budget",
            permissions=[("operate_budget", "Can change caps, and resume what budgets hold")],
            constraints=[
                CheckConstraint(
                    condition=Q(per__isnull=True) | Q(per__in=["hour", "day", "week", "month", "year"]),
                    name="pgonly_budget_per",
                ),
                CheckConstraint(condition=Q(usd__gte=0), name="pgonly_budget_usd"),
            ],
        ),
        **_declared(),
        usd=DecimalField(
            decimal_places=6,
            help_text="Spent and reserved are never more.",
            max_digits=18,
            verbose_name="cap in USD",
        ),
        per=CharField(
            blank=True,
            choices=[
                ("hour", "Hour"),
                ("day", "Day"),
                ("week", "Week"),
                ("month", "Month"),
                ("year", "Year"),
            ],
            help_text="Empty: the cap is for all time.",
            max_length=8,
            null=True,
        ),
        timezone=CharField(default="UTC", help_text="Where the period begins at midnight.", max_length=64),
        spent=DecimalField(db_default=0, decimal_places=6, default=0, editable=False, max_digits=18),
        reserved=DecimalField(
            db_default=0,
            decimal_places=6,
            default=0,
            editable=False,
            help_text="By calls that are under way.",
            max_digits=18,
        ),
        period_start=DateTimeField(editable=False, help_text="Of the period that `spent` is of.", null=True),
        resumed_at=DateTimeField(editable=False, null=True),
    ),
    create(
        "Reservation",
        meta(
            "pgonly_reservation",
            "reservation",
            indexes=[Index("is_expired", "expires_at", name="pgonly_reservation_expiry")],
        ),
        id=UUIDField(primary_key=True, serialize=False),
        budget=CharField(max_length=255),
        usd=DecimalField(decimal_places=6, max_digits=18),
        job_id=UUIDField(null=True),
        task=CharField(db_default="", default="", max_length=255),
        queue=CharField(db_default="", default="", max_length=64),
        step=CharField(db_default="", default="", max_length=255),
        made_at=DateTimeField(db_default=ClockTimestamp()),
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
                Index("at", name="pgonly_cost_at"),
                Index("budget", "at", condition=~Q(budget=""), name="pgonly_cost_budget"),
                Index("job_id", condition=Q(job_id__isnull=False), name="pgonly_cost_job"),
            ],
            constraints=[
                UniqueConstraint(
                    "reservation", condition=Q(reservation__isnull=False), name="pgonly_cost_reservation"
                )
            ],
        ),
        id=BigAutoField(primary_key=True, serialize=False),
        at=DateTimeField(db_default=ClockTimestamp()),
        job_id=UUIDField(null=True),
        task=CharField(db_default="", default="", max_length=255),
        queue=CharField(db_default="", default="", max_length=64),
        budget=CharField(db_default="", default="", max_length=255),
        step=CharField(db_default="", default="", max_length=255),
        usd=DecimalField(decimal_places=6, max_digits=18),
        tokens_in=BigIntegerField(null=True),
        tokens_out=BigIntegerField(null=True),
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
            indexes=[Index("next_at", condition=Q(paused_at=None), name="pgonly_schedule_due")],
            constraints=[
                CheckConstraint(
                    condition=Q(cron__isnull=True, every_seconds__isnull=False, every_seconds__gte=0.1)
                    | Q(cron__isnull=False, every_seconds__isnull=True),
                    name="pgonly_schedule_has_one_timing",
                ),
                CheckConstraint(
                    condition=json_is("array", "args") & json_is("object", "kwargs"),
                    name="pgonly_schedule_json",
                ),
            ],
        ),
        **_declared("When a worker last found it in its code."),
        task=CharField(help_text="The dotted path of the task.", max_length=255),
        args=JSONField(blank=True, default=list),
        kwargs=JSONField(blank=True, default=dict),
        queue=CharField(blank=True, help_text="Empty: the task's own.", max_length=64, null=True),
        priority=SmallIntegerField(blank=True, help_text="Empty: the task's own.", null=True),
        cron=CharField(
            blank=True,
            help_text='Such as "0 3 * * *": minute hour day month weekday.',
            max_length=255,
            null=True,
        ),
        timezone=CharField(default="UTC", help_text="Where the cron line's clock stands.", max_length=64),
        every_seconds=FloatField(blank=True, help_text="Instead of a cron line.", null=True),
        catch_up=CharField(
            choices=[
                ("latest", "Run the latest one"),
                ("all", "Run all of them"),
                ("none", "Run none of them"),
            ],
            default="latest",
            help_text="For ticks that no worker was there for.",
            max_length=16,
        ),
        overlap=CharField(
            choices=[
                ("skip", "Skip the tick"),
                ("allow", "Run side by side"),
                ("replace", "Cancel the earlier run"),
            ],
            default="skip",
            help_text="While an earlier run is unfinished.",
            max_length=16,
        ),
        budget=CharField(blank=True, help_text="The budget that its jobs spend.", max_length=255, null=True),
        metadata=JSONField(blank=True, help_text="That of its jobs: a JSON object.", null=True),
        paused_at=DateTimeField(editable=False, null=True),
        next_at=DateTimeField(
            default=datetime(1970, 1, 1, tzinfo=UTC),
            editable=False,
            help_text="Its next tick; empty: none.",
            null=True,
        ),
        last_tick_at=DateTimeField(editable=False, null=True),
        created_at=DateTimeField(db_default=ClockTimestamp(), editable=False),
        problem=TextField(editable=False, help_text="Why its last tick could not be enqueued.", null=True),
    ),
    create(
        "Tick",
        meta(
            "pgonly_tick",
            "tick",
            constraints=[UniqueConstraint("schedule", "tick_at", name="pgonly_tick_once")],
        ),
        id=BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
        schedule=ForeignKey(
            db_index=False, on_delete=CASCADE, related_name="ticks", to="pgonly_django.schedule"
        ),
        tick_at=DateTimeField(help_text="When it was due."),
        at=DateTimeField(db_default=ClockTimestamp(), help_text="When a worker came to it."),
        outcome=CharField(
            choices=[("enqueued", "Enqueued"), ("skipped", "Skipped")], default="enqueued", max_length=16
        ),
        reason=CharField(default="", help_text="Why it was skipped.", max_length=255),
        job_id=UUIDField(help_text="Its job, which may have been pruned.", null=True),
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
        key_hash=DigestField(editable=False, primary_key=True, serialize=False, verbose_name="key hash"),
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
    create(
        "CacheEntry",
        meta("pgonly_cache", "cache entry", verbose_name_plural="cache entries"),
        **_entry_columns(),
    ),
    create(
        "DurableCacheEntry",
        meta("pgonly_cache_durable", "durable cache entry", verbose_name_plural="durable cache entries"),
        **_entry_columns(),
    ),
    create(
        "CacheUsage",
        meta("pgonly_cache_usage", "cache usage", verbose_name_plural="cache usage"),
        name=TextField(primary_key=True, serialize=False),
        hits=BigIntegerField(),
        misses=BigIntegerField(),
        entries=BigIntegerField(),
        bytes=BigIntegerField(),
        writes=BigIntegerField(),
        written=BigIntegerField(),
    ),
    create(
        "CacheLock",
        meta("pgonly_cache_lock", "cache lock"),
        name=TextField(primary_key=True, serialize=False),
        token=BigIntegerField(),
        expires_at=DateTimeField(),
        holder=TextField(null=True),
        refused=TextArrayField(null=True),
    ),
]


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        CreateSchema(),
        migrations.RunPython(require_postgresql, migrations.RunPython.noop, hints={"model_name": "job"}),
        *TABLES,
        migrations.RunSQL(
            CACHE, DROP_CACHE, state_operations=CACHE_TABLES, hints={"model_name": "cacheentry"}
        ),
        *(
            migrations.RunSQL(sql, migrations.RunSQL.noop, hints={"model_name": name})
            for name, sql in STORAGE.items()
        ),
    ]
