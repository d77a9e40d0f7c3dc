from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0006_limits")]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="sleeping_since",
            field=models.DateTimeField(help_text="It has no connection since then.", null=True),
        ),
        migrations.AddField(
            model_name="worker",
            name="tells_claims",
            field=models.BooleanField(
                help_text="It tells others when it begins to hold jobs; empty: of a version that does not.",
                null=True,
            ),
        ),
    ]
