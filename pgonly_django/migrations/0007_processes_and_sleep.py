from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0006_limits")]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="sleeping_since",
            field=models.DateTimeField(help_text="It has no connection since then.", null=True),
        ),
    ]
