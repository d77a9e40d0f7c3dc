import django.db.models.deletion
from django.db import migrations, models

import pgonly_django.models.job_stats
from pgonly_django.migrations._additive import AddIndexBesideWriters, InOneTransaction, SetFillfactor
from pgonly_django.tables import table

JOB_STATS = [
    migrations.CreateModel(
        name="JobStats",
        fields=[
            (
                "id",
                models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
            ),
            (
                "granularity",
                models.CharField(choices=[("minute", "Minute"), ("hour", "Hour")], max_length=8),
            ),
            ("starts_at", models.DateTimeField()),
            ("queue", models.CharField(max_length=64)),
            ("task", models.CharField(max_length=255)),
            ("succeeded", models.BigIntegerField(default=0)),
            ("failed", models.BigIntegerField(default=0, help_text="The job has ended as failed.")),
            ("retried", models.BigIntegerField(default=0, help_text="The attempt failed, the job goes on.")),
            ("interrupted", models.BigIntegerField(default=0, help_text="Released by a planned stop.")),
            ("crashed", models.BigIntegerField(default=0, help_text="Its worker died.")),
            (
                "waiting_times",
                pgonly_django.models.job_stats.HistogramField(
                    default=list, help_text="From ready to the start of the run."
                ),
            ),
            ("run_times", pgonly_django.models.job_stats.HistogramField(default=list)),
        ],
        options={
            "verbose_name": "job statistics",
            "verbose_name_plural": "job statistics",
            "db_table": table("pgonly_job_stats"),
            "constraints": [
                models.UniqueConstraint(
                    fields=("granularity", "starts_at", "queue", "task"), name="pgonly_job_stats_once"
                )
            ],
        },
    ),
    # Every worker updates the rows of the present minute and hour four times a minute.
    SetFillfactor("jobstats", 50),
]

JOB_OUTPUT = [
    migrations.CreateModel(
        name="JobOutput",
        fields=[
            ("id", models.BigAutoField(primary_key=True, serialize=False)),
            (
                "part",
                models.CharField(
                    blank=True,
                    help_text="Empty: what readers see. Else whose text a later run says again: a step, a loop.",
                    max_length=264,
                ),
            ),
            (
                "place",
                models.BigIntegerField(help_text="The order of the rows: lease_epoch * 2^32 and a number."),
            ),
            (
                "start",
                models.IntegerField(help_text="So many characters stay of what was there before."),
            ),
            ("text", models.TextField()),
            (
                "job",
                models.ForeignKey(
                    db_index=False,
                    on_delete=django.db.models.deletion.CASCADE,
                    related_name="outputs",
                    to="pgonly_django.job",
                ),
            ),
        ],
        options={
            "verbose_name": "output of a job",
            "verbose_name_plural": "outputs of jobs",
            "db_table": table("pgonly_job_output"),
            "constraints": [
                models.UniqueConstraint(
                    models.F("job"), models.F("part"), models.F("place"), name="pgonly_job_output_once"
                )
            ],
        },
    ),
]

WORKERS = [
    migrations.AddField(
        model_name="worker",
        name="version",
        field=models.CharField(
            help_text="Of pgonly-django; empty: of one that does not say.", max_length=64, null=True
        ),
    ),
    migrations.AddField(
        model_name="worker",
        name="stop_requested_at",
        field=models.DateTimeField(help_text="It was asked to stop, and to give its jobs back.", null=True),
    ),
    migrations.AddField(
        model_name="worker",
        name="drain_requested_at",
        field=models.DateTimeField(help_text="It was asked to end once its jobs are done.", null=True),
    ),
]

JOBS = [
    migrations.AddField(
        model_name="job",
        name="reported_at",
        field=models.DateTimeField(help_text="When it last reported progress or a log line.", null=True),
    ),
]

PERMISSIONS = [
    migrations.AlterModelOptions(
        name="job",
        options={
            "permissions": [
                ("operate_job", "Can retry, cancel, discard, hold and resume jobs"),
                ("view_job_data", "Can see the arguments, results and tracebacks of jobs"),
            ],
            "verbose_name": "job",
        },
    ),
    migrations.AlterModelOptions(
        name="worker",
        options={
            "permissions": [("operate_worker", "Can stop and drain workers")],
            "verbose_name": "worker",
        },
    ),
]


class Migration(migrations.Migration):
    atomic = False  # for the index

    dependencies = [("pgonly_django", "0007_processes_and_sleep")]

    operations = [
        AddIndexBesideWriters(
            "job",
            models.Index(
                models.F("id"), condition=models.Q(("state", "cancelled")), name="pgonly_job_cancelled"
            ),
        ),
        InOneTransaction([*JOB_STATS, *JOB_OUTPUT, *WORKERS, *JOBS]),
        *PERMISSIONS,
    ]
