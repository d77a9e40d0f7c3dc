from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS

INSTALLED_APPS += [
    "modelcluster",
    "taggit",
    "wagtail",
    "wagtail.admin",
    "wagtail.documents",
    "wagtail.images",
    "wagtail.search",
    "wagtail.sites",
    "wagtail.snippets",
    "wagtail.users",
]
WAGTAIL_SITE_NAME = "Neighbours"
WAGTAILADMIN_BASE_URL = "http://testserver"
