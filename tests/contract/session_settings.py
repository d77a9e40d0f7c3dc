"""Settings for Django's own session tests: its test app beside ours, in a database of their own."""

import os
import sys

from tests.contract.django_source import tests_folder
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

sys.path.append(str(tests_folder()))

INSTALLED_APPS = [*INSTALLED_APPS, "sessions_tests"]
DATABASES = {"default": {**DATABASES["default"], "TEST": {"NAME": f"test_contract_{os.getpid()}"}}}
SESSION_ENGINE = "pgonly_django.sessions"
USE_TZ = True
