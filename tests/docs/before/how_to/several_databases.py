from django.db import connections
from django.test import override_settings

from pgonly_django.models import CacheEntry, Job, Session
from tests.docs.assumed import this_page_is

DATABASE = JOBS_DATABASE = CACHE_DATABASE = connections.settings["default"]
as_before = override_settings(DATABASE_ROUTERS=[])
this_page_is("mysite.routers", __name__)


class PgonlyRouter:
    """Until the page has made its own."""

    def db_for_read(self, model, **hints):
        return "jobs" if model is Job else "cache" if model is CacheEntry else None

    db_for_write = db_for_read


def after(page):
    router = page.PgonlyRouter()
    assert [router.db_for_read(model) for model in (Job, CacheEntry, Session)] == ["jobs", "cache", "default"]
    assert page.OnThePrimary().db_for_read(Session) == "default"
