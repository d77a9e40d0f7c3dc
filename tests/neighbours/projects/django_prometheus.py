from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import DATABASES, INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS += ["django_prometheus"]
MIDDLEWARE.insert(0, "django_prometheus.middleware.PrometheusBeforeMiddleware")
MIDDLEWARE += ["django_prometheus.middleware.PrometheusAfterMiddleware"]
DATABASES["default"]["ENGINE"] = "django_prometheus.db.backends.postgresql"
