import os

from django.db import connection

present = connection.settings_dict
os.environ["DATABASE_NAME"] = present["NAME"]
os.environ["DATABASE_USER"] = present["USER"]
os.environ["DATABASE_PASSWORD"] = present["PASSWORD"]
