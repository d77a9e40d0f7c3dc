from django.db import migrations, models

import pgonly_django.models.job
from pgonly_django.tables import qualified, table

QUEUES = [
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
                models.DateTimeField(editable=False, help_text="Nobody gets in before.", null=True),
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


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0005_job_limits")]

    operations = [*QUEUES, *LIMITERS]
