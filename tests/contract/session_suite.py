"""Django's own session tests with this engine in the place of its database engine."""

from unittest import skip

from django.test import TransactionTestCase, override_settings
from sessions_tests import tests as djangos

from pgonly_django.sessions import SessionStore

HASHED = "the row knows the hash of the key only: tests/sessions/test_leaks.py, test_model.py"
DJANGOS_TABLE = "it looks into django_session: tests/sessions/test_store.py has its like"
NO_MANAGER_SAVE = "nothing but the store writes rows, so that every write is a merge"

# The middleware's tests make sessions of this class by themselves.
djangos.DatabaseSession = SessionStore


class PostgresSessionTests(djangos.DatabaseSessionTests):
    backend = SessionStore
    session_engine = "pgonly_django.sessions"

    test_session_str = skip(HASHED)(djangos.DatabaseSessionTests.test_session_str)
    test_session_get_decoded = skip(HASHED)(djangos.DatabaseSessionTests.test_session_get_decoded)
    test_sessionmanager_save = skip(NO_MANAGER_SAVE)(djangos.DatabaseSessionTests.test_sessionmanager_save)


@override_settings(USE_TZ=False)
class PostgresSessionWithoutTimeZoneTests(PostgresSessionTests):
    pass


class PostgresSessionCommittedTests(djangos.SessionTestsMixin, TransactionTestCase):
    """The same on a connection in autocommit, where statements get prepared."""

    backend = SessionStore


class PostgresSessionMiddlewareTests(djangos.SessionMiddlewareTests):
    test_empty_session_saved = skip(DJANGOS_TABLE)(djangos.SessionMiddlewareTests.test_empty_session_saved)
