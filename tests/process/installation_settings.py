"""The tests' settings on the database SAMPLE_DATABASE: an installation of its own."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES = {"default": {**DATABASES["default"], "NAME": os.environ["SAMPLE_DATABASE"]}}
