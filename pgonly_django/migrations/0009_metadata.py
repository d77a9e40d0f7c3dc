from django.db import migrations, models

from pgonly_django.migrations._additive import InOneTransaction

METADATA = [
    migrations.AddField(
        model_name="job",
        name="metadata",
        field=models.JSONField(help_text="What goes with its call beside the arguments.", null=True),
    ),
    migrations.AddField(
        model_name="schedule",
        name="metadata",
        field=models.JSONField(blank=True, help_text="That of its jobs: a JSON object.", null=True),
    ),
]


class Migration(migrations.Migration):
    atomic = False  # InOneTransaction waits for its locks, and tries again

    dependencies = [("pgonly_django", "0008_overview")]

    operations = [InOneTransaction(METADATA)]
