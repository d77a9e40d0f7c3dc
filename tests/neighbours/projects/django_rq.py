from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS

INSTALLED_APPS += ["django_rq"]
RQ_QUEUES = {"default": {"URL": "redis://127.0.0.1:1/0"}}  # the test says where
