"""Settings for Django's own task tests in a database of their own."""

import os
import sys

from tests.contract.django_source import tests_folder
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

sys.path.append(str(tests_folder()))

DATABASES = {"default": {**DATABASES["default"], "TEST": {"NAME": f"test_contract_{os.getpid()}"}}}
TASKS = {
    "default": {
        "BACKEND": "tests.contract.task_backends.Kept",
        "QUEUES": [],
    }
}
