from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0009_metadata")]

    operations = [
        migrations.AlterModelOptions(
            name="worker",
            options={
                "permissions": [
                    ("operate_worker", "Can stop and drain workers"),
                    ("view_doctor", "Can see what the doctor finds"),
                ],
                "verbose_name": "worker",
            },
        ),
    ]
