from django.db import connection

NAME = connection.settings_dict["NAME"]
USER = connection.settings_dict["USER"]
