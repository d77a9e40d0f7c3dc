from django.db import migrations, models

from pgonly_django.tables import table

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


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0005_job_limits")]

    operations = [*QUEUES]
