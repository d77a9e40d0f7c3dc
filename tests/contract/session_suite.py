"""Django's own session tests, run on this engine instead of Django's database engine."""

from unittest import skip

from django.test import TransactionTestCase, override_settings
from sessions_tests import tests as djangos

from pgonly_django.sessions import SessionStore
from tests.contract.reasons import DJANGOS_TABLE, HASHED, NO_MANAGER_SAVE

# The middleware's tests create sessions of this class.
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
