from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS

INSTALLED_APPS += ["django_q"]
Q_CLUSTER = {"name": "shop", "orm": "default", "timeout": 60, "retry": 120}
