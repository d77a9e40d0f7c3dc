from django.db import migrations, models

from pgonly_django.migrations._operations import InOneTransaction

__all__ = ["InOneTransaction", "migrations", "models"]
