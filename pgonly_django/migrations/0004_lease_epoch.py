from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0003_session")]

    operations = [migrations.RenameField("job", "lease", "lease_epoch")]
