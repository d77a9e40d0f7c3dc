import django.db.models.deletion
from django.core.management.base import CommandError
from django.db import migrations, models

import pgonly_django.compat
import pgonly_django.models.job
from pgonly_django.migrations._create_schema import CreateSchema
from pgonly_django.tables import qualified, table

# Dead rows are the queue's exhaust: room for HOT updates on every page, and a vacuum that comes early and
# does not pause. (Defaults: vacuum after 20 % of the table, 2 ms pauses.)
STORAGE = qualified("""
ALTER TABLE pgonly_job SET (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE pgonly_checkpoint SET (fillfactor = 50);
ALTER TABLE pgonly_worker SET (fillfactor = 50);
""")


def require_postgresql(apps, schema_editor):  # noqa: ARG001 - the signature of a RunPython
    """Where a router keeps the queue away, it is not called."""
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        raise CommandError(
            f"pgonly_django keeps its tables in PostgreSQL, but DATABASES[{connection.alias!r}] is "
            f"{connection.settings_dict['ENGINE']}. Set its ENGINE to django.db.backends.postgresql, or have a "
            f"database router answer False to allow_migrate({connection.alias!r}, 'pgonly_django')."
        )


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        CreateSchema(),
        migrations.RunPython(require_postgresql, migrations.RunPython.noop, hints={"model_name": "job"}),
        migrations.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=pgonly_django.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "backend",
                    models.CharField(default="default", help_text="The alias in TASKS.", max_length=64),
                ),
                ("queue", models.CharField(default="default", max_length=64)),
                ("task", models.CharField(help_text="The dotted path of the task.", max_length=255)),
                ("args", models.JSONField(default=list)),
                ("kwargs", models.JSONField(default=dict)),
                ("options", models.JSONField(help_text="What .using() set for this job alone.", null=True)),
                ("priority", models.SmallIntegerField(default=0, help_text="-100 to 100, larger first.")),
                ("run_at", models.DateTimeField(help_text="Not before this time.", null=True)),
                (
                    "ready_at",
                    models.DateTimeField(
                        db_default=pgonly_django.models.job.ClockTimestamp(),
                        help_text="When it last became ready: the order of claims.",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("scheduled", "Scheduled"),
                            ("ready", "Ready"),
                            ("running", "Running"),
                            ("succeeded", "Succeeded"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="ready",
                        max_length=16,
                    ),
                ),
                (
                    "lease",
                    models.IntegerField(default=0, help_text="Raised by every claim; fences older runs off."),
                ),
                ("worker_id", models.UUIDField(null=True)),
                ("lease_expires_at", models.DateTimeField(null=True)),
                ("attempt", models.SmallIntegerField(default=0)),
                ("max_attempts", models.SmallIntegerField(default=4)),
                (
                    "interruptions",
                    models.IntegerField(default=0, help_text="Planned stops; they cost no attempt."),
                ),
                (
                    "crashes",
                    models.SmallIntegerField(
                        default=0, help_text="Deaths of its worker that it is suspected of."
                    ),
                ),
                ("max_runtime", models.DurationField(null=True)),
                (
                    "retention",
                    models.DurationField(
                        help_text="Kept this long once finished; empty: for ever.", null=True
                    ),
                ),
                ("progress", models.JSONField(help_text="done, total and message.", null=True)),
                ("result", models.JSONField(null=True)),
                (
                    "errors",
                    models.JSONField(default=list, help_text="The last attempts that did not succeed."),
                ),
                ("log", models.JSONField(default=list, help_text="The last lines the job logged.")),
                ("cancel_requested_at", models.DateTimeField(null=True)),
                ("enqueued_at", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
                ("started_at", models.DateTimeField(null=True)),
                ("attempted_at", models.DateTimeField(help_text="When its latest run began.", null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(help_text="When a finished job is pruned.", null=True)),
            ],
            options={
                "verbose_name": "job",
                "db_table": table("pgonly_job"),
                "permissions": [("operate_job", "Can retry, cancel and discard jobs")],
            },
        ),
        migrations.CreateModel(
            name="Step",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=255)),
                ("result", models.JSONField(null=True)),
                ("finished_at", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
            ],
            options={
                "verbose_name": "step",
                "db_table": table("pgonly_step"),
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=pgonly_django.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("name", models.CharField(max_length=128)),
                ("hostname", models.CharField(max_length=255)),
                ("pid", models.IntegerField()),
                ("queues", models.JSONField(default=list, help_text="In serving order; empty: all.")),
                ("threads", models.SmallIntegerField()),
                ("running", models.IntegerField(default=0)),
                ("started_at", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
                ("heartbeat_at", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
                ("stopped_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "worker",
                "db_table": table("pgonly_worker"),
            },
        ),
        migrations.CreateModel(
            name="Checkpoint",
            fields=[
                (
                    "job",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="checkpoint",
                        serialize=False,
                        to="pgonly_django.job",
                    ),
                ),
                ("value", models.JSONField(help_text="What the job saved.", null=True)),
                (
                    "positions",
                    models.JSONField(default=dict, help_text="How many items each iterate() has behind it."),
                ),
                ("saved_at", models.DateTimeField(db_default=pgonly_django.models.job.ClockTimestamp())),
            ],
            options={
                "verbose_name": "checkpoint",
                "db_table": table("pgonly_checkpoint"),
            },
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("queue"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("ready_at"),
                models.F("id"),
                condition=models.Q(("crashes__lt", 2), ("state", "ready")),
                name="pgonly_job_ready",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("ready_at"),
                condition=models.Q(("crashes__gte", 2), ("state", "ready")),
                name="pgonly_job_suspect",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("run_at"), condition=models.Q(("state", "scheduled")), name="pgonly_job_scheduled"
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("queue"), condition=models.Q(("state", "running")), name="pgonly_job_running"
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("expires_at"),
                condition=models.Q(("state__in", ["succeeded", "failed", "cancelled"])),
                name="pgonly_job_finished",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("id"), condition=models.Q(("state", "failed")), name="pgonly_job_failed"
            ),
        ),
        migrations.AddConstraint(
            model_name="job",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state", "running"), _negated=True),
                    models.Q(("lease_expires_at__isnull", False), ("worker_id__isnull", False)),
                    _connector="OR",
                ),
                name="pgonly_job_running_has_lease",
            ),
        ),
        migrations.AddConstraint(
            model_name="job",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state", "scheduled"), _negated=True),
                    ("run_at__isnull", False),
                    _connector="OR",
                ),
                name="pgonly_job_scheduled_has_time",
            ),
        ),
        migrations.AddField(
            model_name="step",
            name="job",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="steps",
                to="pgonly_django.job",
            ),
        ),
        migrations.AddConstraint(
            model_name="step",
            constraint=models.UniqueConstraint(models.F("job"), models.F("name"), name="pgonly_step_once"),
        ),
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop, hints={"model_name": "job"}),
    ]
