from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0005_job_limits")]

    operations = []
