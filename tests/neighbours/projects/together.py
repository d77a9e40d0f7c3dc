from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import CACHES, INSTALLED_APPS

INSTALLED_APPS += ["ninja", "rest_framework"]
CACHES["throttles"] = {**CACHES["default"], "LOCATION": "throttles"}
CACHES["local"] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
REST_FRAMEWORK = {
    "DEFAULT_THROTTLE_RATES": {"anon": "5/min", "user": "5/min", "upload": "2/hour", "nothing": None}
}
NINJA_DEFAULT_THROTTLE_RATES = {"anon": "5/5m", "user": "5/5m", "auth": "5/5m"}
