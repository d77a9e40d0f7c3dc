from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS

INSTALLED_APPS += ["django_celery_beat"]
