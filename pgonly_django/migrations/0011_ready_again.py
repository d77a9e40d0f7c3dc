from django.db import migrations, models

import pgonly_django.models.job
from pgonly_django.migrations._additive import InOneTransaction

READY_AGAIN_AT = migrations.AddField(
    model_name="job",
    name="ready_again_at",
    field=models.DateTimeField(
        help_text="When it last became ready again at the place that it had kept.", null=True
    ),
)
READY_AT = migrations.AlterField(
    model_name="job",
    name="ready_at",
    field=models.DateTimeField(
        db_default=pgonly_django.models.job.ClockTimestamp(),
        help_text="Its place in the order of claims: when it became ready.",
    ),
)
MAX_ATTEMPTS = migrations.AlterField(
    model_name="job", name="max_attempts", field=models.SmallIntegerField(default=8)
)


class Migration(migrations.Migration):
    atomic = False  # InOneTransaction waits for its locks, and tries again

    dependencies = [("pgonly_django", "0010_doctor")]

    operations = [InOneTransaction([READY_AGAIN_AT]), READY_AT, MAX_ATTEMPTS]
