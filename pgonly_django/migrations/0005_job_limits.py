from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("pgonly_django", "0004_lease_epoch"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="job",
            options={
                "permissions": [("operate_job", "Can retry, cancel, discard, hold and resume jobs")],
                "verbose_name": "job",
            },
        ),
        migrations.RemoveIndex(
            model_name="job",
            name="pgonly_job_ready",
        ),
        migrations.RemoveIndex(
            model_name="job",
            name="pgonly_job_suspect",
        ),
        migrations.AddField(
            model_name="job",
            name="concurrency_key",
            field=models.CharField(help_text="What its limit counts.", max_length=255, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="concurrency_limit",
            field=models.SmallIntegerField(help_text="So many jobs of the key run at a time.", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="dead_letter_queue",
            field=models.CharField(
                help_text="Whose task is told when the job has failed.", max_length=64, null=True
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="dead_lettered_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="failed_retention",
            field=models.DurationField(help_text="The same for a failed job; empty: 90 days.", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="held_by",
            field=models.CharField(help_text="What holds it, such as a budget.", max_length=255, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="slots",
            field=models.SmallIntegerField(
                help_text="Threads that it takes up in its worker; empty: one, and no concurrency key.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="unique_key",
            field=models.CharField(help_text="No second job may have it.", max_length=255, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="unique_until",
            field=models.DateTimeField(
                help_text="When the key is free again; empty: by state alone.", null=True
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="unique_while",
            field=models.CharField(
                choices=[("waiting", "Waiting"), ("unfinished", "Unfinished"), ("retained", "Retained")],
                help_text="In which states the key counts.",
                max_length=16,
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="job",
            name="state",
            field=models.CharField(
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
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("queue"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("ready_at"),
                models.F("id"),
                condition=models.Q(("slots__isnull", True), ("state", "ready"), ("crashes__lt", 2)),
                name="pgonly_job_ready",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("ready_at"),
                condition=models.Q(("slots__isnull", True), ("state", "ready"), ("crashes__gte", 2)),
                name="pgonly_job_suspect",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("queue"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("concurrency_key"),
                models.F("ready_at"),
                models.F("id"),
                condition=models.Q(("slots__isnull", False), ("state", "ready")),
                name="pgonly_job_limited",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("concurrency_key"),
                condition=models.Q(("slots__isnull", False), ("state", "running")),
                name="pgonly_job_limited_running",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("held_by"),
                models.F("id"),
                condition=models.Q(("held_by__isnull", False)),
                name="pgonly_job_held",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("dead_letter_queue"),
                models.F("id"),
                condition=models.Q(
                    ("dead_letter_queue__isnull", False),
                    ("state", "failed"),
                    ("dead_lettered_at__isnull", True),
                ),
                name="pgonly_job_dead_letter",
            ),
        ),
        migrations.AddConstraint(
            model_name="job",
            constraint=models.UniqueConstraint(
                models.F("unique_key"),
                condition=models.Q(
                    ("unique_key__isnull", False),
                    models.Q(
                        ("unique_while", "retained"),
                        models.Q(
                            ("state__in", ("scheduled", "ready", "running", "held")),
                            models.Q(("unique_while", "unfinished"), ("lease_epoch", 0), _connector="OR"),
                        ),
                        _connector="OR",
                    ),
                ),
                name="pgonly_job_unique",
            ),
        ),
    ]
