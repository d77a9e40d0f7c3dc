from django.db import migrations

import pgonly_django.models.readable
from pgonly_django.migrations._additive import InOneTransaction


def _time(model, name, help_text):
    field = pgonly_django.models.readable.TimestampField(editable=False, help_text=help_text, null=True)
    return migrations.AddField(model_name=model, name=name, field=field)


SAID_AT = "When a process last said so."
STARTED_AT = "When the newest process that says so had started: older ones change nothing."

DECLARERS = [
    *(_time(model, "declared_at", SAID_AT) for model in ("queue", "limiter", "budget")),
    *(
        _time(model, "declarer_started_at", STARTED_AT)
        for model in ("queue", "limiter", "budget", "schedule")
    ),
]


class Migration(migrations.Migration):
    atomic = False  # InOneTransaction waits for its locks, and tries again

    dependencies = [("pgonly_django", "0011_ready_again")]

    operations = [InOneTransaction(DECLARERS)]
