from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS += ["pgtrigger", "pghistory", "tests.neighbours.tracked"]
MIDDLEWARE += ["pghistory.middleware.HistoryMiddleware"]
MIGRATION_MODULES = {}  # those of pghistory make functions of the database
