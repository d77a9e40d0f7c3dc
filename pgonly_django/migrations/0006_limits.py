from datetime import UTC, datetime

import django.db.models.deletion
from django.db import migrations, models

import pgonly_django.models.job
from pgonly_django.tables import qualified, table

# Every start of a limited queue updates its tokens.
STORAGE = qualified("ALTER TABLE pgonly_queue_tokens SET (fillfactor = 50)")

QUEUES = [
    migrations.CreateModel(
        name="QueueTokens",
        fields=[
            ("queue", models.CharField(max_length=255, primary_key=True, serialize=False)),
            ("tokens", models.FloatField(help_text="Jobs that may start at once.")),
            ("refilled_at", models.DateTimeField()),
        ],
        options={
            "verbose_name": "tokens of a queue",
            "verbose_name_plural": "tokens of queues",
            "db_table": table("pgonly_queue_tokens"),
        },
    ),
    migrations.CreateModel(
        name="Queue",
        fields=[
            ("name", models.CharField(max_length=255, primary_key=True, serialize=False)),
            (
                "declared",
                models.JSONField(help_text="What settings or code say; empty: made by a person.", null=True),
            ),
            (
                "edited_at",
                models.DateTimeField(
                    help_text="When a person changed it; code changes it no more.", null=True
                ),
            ),
            (
                "max_running",
                models.IntegerField(
                    blank=True,
                    help_text="Jobs at a time, over all workers.",
                    null=True,
                    verbose_name="running at most",
                ),
            ),
            (
                "rate_count",
                models.IntegerField(
                    blank=True,
                    help_text="So many jobs start per period ...",
                    null=True,
                    verbose_name="starts",
                ),
            ),
            (
                "rate_seconds",
                models.FloatField(
                    blank=True, help_text="... of so many seconds.", null=True, verbose_name="period"
                ),
            ),
            (
                "limiter",
                models.CharField(
                    blank=True,
                    help_text="While it cools down, no job of the queue starts.",
                    max_length=255,
                    null=True,
                ),
            ),
            ("paused_at", models.DateTimeField(blank=True, null=True)),
        ],
        options={
            "verbose_name": "queue",
            "db_table": table("pgonly_queue"),
            "permissions": [("operate_queue", "Can pause, resume and change queues")],
            "constraints": [
                models.CheckConstraint(
                    condition=models.Q(
                        ("max_running__isnull", True), ("max_running__gte", 1), _connector="OR"
                    ),
                    name="pgonly_queue_max_running",
                ),
                models.CheckConstraint(
                    condition=models.Q(
                        models.Q(("rate_count__isnull", True), ("rate_seconds__isnull", True)),
                        models.Q(
                            ("rate_count__gte", 1),
                            ("rate_count__isnull", False),
                            ("rate_seconds__gt", 0),
                            ("rate_seconds__isnull", False),
                            ("rate_seconds__lte", 3153600000.0),
                        ),
                        _connector="OR",
                    ),
                    name="pgonly_queue_rate",
                ),
            ],
        },
    ),
    migrations.RunSQL(STORAGE, migrations.RunSQL.noop, hints={"model_name": "queuetokens"}),
]

# Short-lived rows: room for HOT updates, early vacuum. Waiters need no write-ahead log: after a crash of PostgreSQL
# they take a new ticket.
LIMITER_STORAGE = qualified("""
ALTER TABLE pgonly_limiter SET (fillfactor = 20);
ALTER TABLE pgonly_limiter_slot SET (fillfactor = 50);
ALTER TABLE pgonly_limiter_waiter SET UNLOGGED;
ALTER TABLE pgonly_limiter_waiter SET (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
""")

LIMITERS = [
    migrations.CreateModel(
        name="Limiter",
        fields=[
            ("name", models.CharField(max_length=255, primary_key=True, serialize=False)),
            (
                "declared",
                models.JSONField(help_text="What settings or code say; empty: made by a person.", null=True),
            ),
            (
                "edited_at",
                models.DateTimeField(
                    help_text="When a person changed it; code changes it no more.", null=True
                ),
            ),
            ("concurrent", models.IntegerField(blank=True, help_text="So many at a time.", null=True)),
            ("requests_per_minute", models.FloatField(blank=True, null=True)),
            ("tokens_per_minute", models.FloatField(blank=True, null=True)),
            ("requests", models.FloatField(editable=False, null=True)),
            ("tokens", models.FloatField(editable=False, null=True)),
            ("refilled_at", models.DateTimeField(editable=False, null=True)),
            (
                "blocked_until",
                models.DateTimeField(editable=False, help_text="No caller gets in before.", null=True),
            ),
        ],
        options={
            "verbose_name": "limiter",
            "db_table": table("pgonly_limiter"),
            "permissions": [("operate_limiter", "Can cool down limiters and change their limits")],
            "constraints": [
                models.CheckConstraint(
                    condition=models.Q(("concurrent__isnull", True), ("concurrent__gte", 1), _connector="OR"),
                    name="pgonly_limiter_concurrent",
                ),
                models.CheckConstraint(
                    condition=models.Q(
                        ("requests_per_minute__isnull", True), ("requests_per_minute__gt", 0), _connector="OR"
                    ),
                    name="pgonly_limiter_requests",
                ),
                models.CheckConstraint(
                    condition=models.Q(
                        ("tokens_per_minute__isnull", True), ("tokens_per_minute__gt", 0), _connector="OR"
                    ),
                    name="pgonly_limiter_tokens",
                ),
            ],
        },
    ),
    migrations.CreateModel(
        name="LimiterSlot",
        fields=[
            ("id", models.BigAutoField(primary_key=True, serialize=False)),
            ("limiter", models.CharField(max_length=255)),
            ("number", models.IntegerField()),
            ("holder", models.UUIDField(null=True)),
            ("who", models.CharField(blank=True, max_length=255)),
            ("taken_at", models.DateTimeField(null=True)),
            ("expires_at", models.DateTimeField(null=True)),
        ],
        options={
            "verbose_name": "limiter slot",
            "db_table": table("pgonly_limiter_slot"),
            "indexes": [
                models.Index(
                    models.F("holder"),
                    condition=models.Q(("holder__isnull", False)),
                    name="pgonly_limiter_slot_holder",
                )
            ],
            "constraints": [
                models.UniqueConstraint(
                    models.F("limiter"), models.F("number"), name="pgonly_limiter_slot_number"
                )
            ],
        },
    ),
    migrations.CreateModel(
        name="LimiterWaiter",
        fields=[
            ("ticket", models.BigAutoField(primary_key=True, serialize=False)),
            ("id", models.UUIDField(unique=True)),
            ("limiter", models.CharField(max_length=255)),
            ("who", models.CharField(blank=True, max_length=255)),
            ("tokens", models.BigIntegerField()),
            ("since", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
            ("expires_at", models.DateTimeField()),
        ],
        options={
            "verbose_name": "limiter waiter",
            "db_table": table("pgonly_limiter_waiter"),
            "indexes": [
                models.Index(models.F("limiter"), models.F("ticket"), name="pgonly_limiter_waiter_next")
            ],
        },
    ),
    migrations.RunSQL(LIMITER_STORAGE, migrations.RunSQL.noop, hints={"model_name": "limiter"}),
]


SCHEDULES = [
    migrations.CreateModel(
        name="Schedule",
        fields=[
            ("name", models.CharField(max_length=255, primary_key=True, serialize=False)),
            (
                "declared",
                models.JSONField(help_text="What settings or code say; empty: made by a person.", null=True),
            ),
            (
                "edited_at",
                models.DateTimeField(
                    help_text="When a person changed it; code changes it no more.", null=True
                ),
            ),
            ("task", models.CharField(help_text="The dotted path of the task.", max_length=255)),
            ("args", models.JSONField(blank=True, default=list)),
            ("kwargs", models.JSONField(blank=True, default=dict)),
            (
                "queue",
                models.CharField(blank=True, help_text="Empty: the task's own.", max_length=64, null=True),
            ),
            (
                "priority",
                models.SmallIntegerField(blank=True, help_text="Empty: the task's own.", null=True),
            ),
            (
                "cron",
                models.CharField(
                    blank=True,
                    help_text='Such as "0 3 * * *": minute hour day month weekday.',
                    max_length=255,
                    null=True,
                ),
            ),
            (
                "timezone",
                models.CharField(
                    default="UTC", help_text="Where the cron line's clock stands.", max_length=64
                ),
            ),
            (
                "every_seconds",
                models.FloatField(blank=True, help_text="Instead of a cron line.", null=True),
            ),
            (
                "catch_up",
                models.CharField(
                    choices=[
                        ("latest", "Run the latest one"),
                        ("all", "Run all of them"),
                        ("none", "Run none of them"),
                    ],
                    default="latest",
                    help_text="For ticks that no worker was there for.",
                    max_length=16,
                ),
            ),
            (
                "overlap",
                models.CharField(
                    choices=[
                        ("skip", "Skip the tick"),
                        ("allow", "Run side by side"),
                        ("replace", "Cancel the earlier run"),
                    ],
                    default="skip",
                    help_text="While an earlier run is unfinished.",
                    max_length=16,
                ),
            ),
            (
                "budget",
                models.CharField(
                    blank=True, help_text="The budget that its jobs spend.", max_length=255, null=True
                ),
            ),
            ("paused_at", models.DateTimeField(editable=False, null=True)),
            (
                "next_at",
                models.DateTimeField(
                    default=datetime(1970, 1, 1, tzinfo=UTC),
                    editable=False,
                    help_text="Its next tick; empty: none.",
                    null=True,
                ),
            ),
            ("last_tick_at", models.DateTimeField(editable=False, null=True)),
            (
                "created_at",
                models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp(), editable=False),
            ),
            (
                "declared_at",
                models.DateTimeField(
                    editable=False, help_text="When a worker last found it in its code.", null=True
                ),
            ),
            (
                "problem",
                models.TextField(
                    editable=False, help_text="Why its last tick could not be enqueued.", null=True
                ),
            ),
        ],
        options={
            "verbose_name": "schedule",
            "db_table": table("pgonly_schedule"),
            "permissions": [("operate_schedule", "Can pause, resume and run schedules")],
            "indexes": [
                models.Index(
                    models.F("next_at"),
                    condition=models.Q(("paused_at", None)),
                    name="pgonly_schedule_due",
                )
            ],
            "constraints": [
                models.CheckConstraint(
                    condition=models.Q(
                        models.Q(
                            ("cron__isnull", True),
                            ("every_seconds__gte", 0.1),
                            ("every_seconds__isnull", False),
                        ),
                        models.Q(("cron__isnull", False), ("every_seconds__isnull", True)),
                        _connector="OR",
                    ),
                    name="pgonly_schedule_has_one_timing",
                )
            ],
        },
    ),
    migrations.CreateModel(
        name="Tick",
        fields=[
            (
                "id",
                models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
            ),
            ("tick_at", models.DateTimeField(help_text="When it was due.")),
            (
                "at",
                models.DateTimeField(
                    db_default=pgonly_django.models.job.ClockTimestamp(),
                    help_text="When a worker came to it.",
                ),
            ),
            (
                "outcome",
                models.CharField(
                    choices=[("enqueued", "Enqueued"), ("skipped", "Skipped")],
                    default="enqueued",
                    max_length=16,
                ),
            ),
            (
                "reason",
                models.CharField(default="", help_text="Why it was skipped.", max_length=255),
            ),
            ("job_id", models.UUIDField(help_text="Its job, which may have been pruned.", null=True)),
            ("by_person", models.BooleanField(default=False)),
            (
                "schedule",
                models.ForeignKey(
                    db_index=False,
                    on_delete=django.db.models.deletion.CASCADE,
                    related_name="ticks",
                    to="pgonly_django.schedule",
                ),
            ),
        ],
        options={
            "verbose_name": "tick",
            "db_table": table("pgonly_tick"),
            "constraints": [
                models.UniqueConstraint(models.F("schedule"), models.F("tick_at"), name="pgonly_tick_once")
            ],
        },
    ),
]

# Budgets are rows that every paid call updates twice: room in their pages keeps those updates off the index.
BUDGET_STORAGE = qualified("""
ALTER TABLE pgonly_budget SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 1);
ALTER TABLE pgonly_reservation SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 1);
""")
BUDGETS = [
    migrations.AddField(
        model_name="step",
        name="tokens_in",
        field=models.BigIntegerField(null=True),
    ),
    migrations.AddField(
        model_name="step",
        name="tokens_out",
        field=models.BigIntegerField(null=True),
    ),
    migrations.AddField(
        model_name="step",
        name="usd",
        field=models.DecimalField(
            decimal_places=6, help_text="What it has cost, in US dollars.", max_digits=18, null=True
        ),
    ),
    migrations.CreateModel(
        name="Budget",
        fields=[
            ("name", models.CharField(max_length=255, primary_key=True, serialize=False)),
            (
                "declared",
                models.JSONField(help_text="What settings or code say; empty: made by a person.", null=True),
            ),
            (
                "edited_at",
                models.DateTimeField(
                    help_text="When a person changed it; code changes it no more.", null=True
                ),
            ),
            (
                "usd",
                models.DecimalField(
                    decimal_places=6,
                    help_text="Spent and reserved are never more.",
                    max_digits=18,
                    verbose_name="cap in USD",
                ),
            ),
            (
                "per",
                models.CharField(
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
            ),
            (
                "timezone",
                models.CharField(
                    default="UTC", help_text="Where the period begins at midnight.", max_length=64
                ),
            ),
            (
                "spent",
                models.DecimalField(db_default=0, decimal_places=6, default=0, editable=False, max_digits=18),
            ),
            (
                "reserved",
                models.DecimalField(
                    db_default=0,
                    decimal_places=6,
                    default=0,
                    editable=False,
                    help_text="By calls that are under way.",
                    max_digits=18,
                ),
            ),
            (
                "period_start",
                models.DateTimeField(
                    editable=False, help_text="Of the period that `spent` is of.", null=True
                ),
            ),
            ("resumed_at", models.DateTimeField(editable=False, null=True)),
        ],
        options={
            "verbose_name": "budget",
            "db_table": table("pgonly_budget"),
            "permissions": [("operate_budget", "Can change caps, and resume what budgets hold")],
            "constraints": [
                models.CheckConstraint(
                    condition=models.Q(
                        ("per__isnull", True),
                        ("per__in", ["hour", "day", "week", "month", "year"]),
                        _connector="OR",
                    ),
                    name="pgonly_budget_per",
                ),
                models.CheckConstraint(condition=models.Q(("usd__gte", 0)), name="pgonly_budget_usd"),
            ],
        },
    ),
    migrations.CreateModel(
        name="CostEntry",
        fields=[
            ("id", models.BigAutoField(primary_key=True, serialize=False)),
            ("at", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
            ("job_id", models.UUIDField(null=True)),
            ("task", models.CharField(db_default="", default="", max_length=255)),
            ("queue", models.CharField(db_default="", default="", max_length=64)),
            ("budget", models.CharField(db_default="", default="", max_length=255)),
            ("step", models.CharField(db_default="", default="", max_length=255)),
            ("usd", models.DecimalField(decimal_places=6, max_digits=18)),
            ("tokens_in", models.BigIntegerField(null=True)),
            ("tokens_out", models.BigIntegerField(null=True)),
            (
                "is_estimate",
                models.BooleanField(
                    db_default=False,
                    default=False,
                    help_text="The reserved amount: the call never said what it cost.",
                ),
            ),
            ("reservation", models.UUIDField(null=True)),
        ],
        options={
            "verbose_name": "cost",
            "verbose_name_plural": "costs",
            "db_table": table("pgonly_cost"),
            "indexes": [
                models.Index(models.F("at"), name="pgonly_cost_at"),
                models.Index(
                    models.F("budget"),
                    models.F("at"),
                    condition=models.Q(("budget", ""), _negated=True),
                    name="pgonly_cost_budget",
                ),
                models.Index(
                    models.F("job_id"), condition=models.Q(("job_id__isnull", False)), name="pgonly_cost_job"
                ),
            ],
            "constraints": [
                models.UniqueConstraint(
                    models.F("reservation"),
                    condition=models.Q(("reservation__isnull", False)),
                    name="pgonly_cost_reservation",
                )
            ],
        },
    ),
    migrations.CreateModel(
        name="Reservation",
        fields=[
            ("id", models.UUIDField(primary_key=True, serialize=False)),
            ("budget", models.CharField(max_length=255)),
            ("usd", models.DecimalField(decimal_places=6, max_digits=18)),
            ("job_id", models.UUIDField(null=True)),
            ("task", models.CharField(db_default="", default="", max_length=255)),
            ("queue", models.CharField(db_default="", default="", max_length=64)),
            ("step", models.CharField(db_default="", default="", max_length=255)),
            ("made_at", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
            ("expires_at", models.DateTimeField()),
            ("is_expired", models.BooleanField(db_default=False, default=False)),
        ],
        options={
            "verbose_name": "reservation",
            "db_table": table("pgonly_reservation"),
            "indexes": [
                models.Index(models.F("is_expired"), models.F("expires_at"), name="pgonly_reservation_expiry")
            ],
        },
    ),
    migrations.RunSQL(BUDGET_STORAGE, migrations.RunSQL.noop, hints={"model_name": "budget"}),
]


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0005_job_limits")]

    operations = [*QUEUES, *LIMITERS, *SCHEDULES, *BUDGETS]
