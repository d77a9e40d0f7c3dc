"""Settings for Django's own cache tests: its test apps beside ours, in a database of their own."""

import os
import sys

from tests.contract.django_source import tests_folder
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

sys.path.append(str(tests_folder()))

INSTALLED_APPS = [*INSTALLED_APPS, "cache"]
DATABASES = {"default": {**DATABASES["default"], "TEST": {"NAME": f"test_contract_{os.getpid()}"}}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
# As in the settings that these tests are written for.
LANGUAGE_CODE, USE_TZ = "en", False
