from django.db import migrations, models
from django.db.models.functions import Now

import pgonly_django.models.session
from pgonly_django.tables import qualified, table

# Most writes change no indexed column: room in the page keeps them HOT, early vacuums keep it free.
STORAGE = qualified("""
ALTER TABLE pgonly_session SET (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1
)
""")
HOUR = "(floor(extract(epoch FROM (%(expressions)s AT TIME ZONE 'UTC')) / 3600))::integer"


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0002_cache")]

    operations = [
        migrations.CreateModel(
            name="Session",
            fields=[
                (
                    "key_hash",
                    pgonly_django.models.session.DigestField(
                        editable=False, primary_key=True, serialize=False, verbose_name="key hash"
                    ),
                ),
                ("data", models.JSONField(null=True, verbose_name="data")),
                ("user_id", models.TextField(null=True, verbose_name="user id")),
                ("created_at", models.DateTimeField(db_default=Now(), verbose_name="created at")),
                ("last_seen_at", models.DateTimeField(null=True, verbose_name="last seen at")),
                ("expires_at", models.DateTimeField(verbose_name="expires at")),
                (
                    "expires_hour",
                    models.GeneratedField(
                        expression=models.Func(
                            "expires_at", output_field=models.IntegerField(), template=HOUR
                        ),
                        output_field=models.IntegerField(),
                        db_persist=True,
                    ),
                ),
                ("ip", models.GenericIPAddressField(null=True, verbose_name="IP address")),
                ("user_agent", models.TextField(db_default="", default="", verbose_name="user agent")),
            ],
            options={
                "verbose_name": "session",
                "verbose_name_plural": "sessions",
                "db_table": table("pgonly_session"),
                "permissions": [("view_session_data", "Can view the data inside sessions")],
                "indexes": [
                    models.Index(
                        condition=models.Q(("user_id__isnull", False)),
                        fields=["user_id"],
                        name="pgonly_session_user",
                    ),
                    models.Index(fields=["expires_hour"], name="pgonly_session_expires"),
                ],
            },
        ),
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop, hints={"model_name": "session"}),
    ]
