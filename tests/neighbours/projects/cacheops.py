from benchmarks.servers import free_port
from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS

INSTALLED_APPS = ["cacheops", *INSTALLED_APPS]
CACHEOPS = {"pgonly_django.*": None, "*.*": {"ops": "all", "timeout": 60}}
REDIS_PORT = free_port()  # the tests start a server there
CACHEOPS_REDIS = f"redis://127.0.0.1:{REDIS_PORT}/0"
