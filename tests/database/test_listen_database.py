"""PGONLY["LISTEN_DATABASE"]: which connections LISTEN past a pooler, and what the check says of a wrong one."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.database.listener import check_listen_database, listen_alias
from tests.aliases import alias


@pytest.fixture
def direct(settings):
    """An alias that leads to the same database."""
    settings.PGONLY = {"LISTEN_DATABASE": "direct"}
    with alias("direct", HOST="db.example.com"):
        yield "direct"


def errors():
    return [(each.id, each.msg) for each in check_listen_database()]


def test_without_the_setting_each_alias_listens_for_itself():
    assert listen_alias("default") == "default"
    assert errors() == []


def test_the_alias_of_the_setting_listens_for_those_with_the_same_name(direct):
    with alias("elsewhere", NAME="of another site"):
        found = [listen_alias(each) for each in ("default", "elsewhere", "direct")]
        assert found == ["direct", "elsewhere", "direct"]
    assert errors() == []


def test_an_alias_that_is_not_there_is_an_error(settings):
    settings.PGONLY = {"LISTEN_DATABASE": "drect"}
    message = "PGONLY[\"LISTEN_DATABASE\"] must be an alias of DATABASES (default), got 'drect'."
    assert errors() == [("pgonly_django.E012", message)]
    with pytest.raises(ImproperlyConfigured, match="must be an alias of DATABASES"):
        listen_alias("default")


def test_one_that_is_no_postgresql_is_an_error(settings):
    settings.PGONLY = {"LISTEN_DATABASE": "lite"}
    with alias("lite", ENGINE="django.db.backends.sqlite3"):
        ((error_id, message),) = errors()
    assert error_id == "pgonly_django.E012"
    assert message == "PGONLY[\"LISTEN_DATABASE\"] is 'lite', which is sqlite."


def test_one_for_which_no_other_alias_has_the_name_is_an_error(settings):
    settings.PGONLY = {"LISTEN_DATABASE": "direct"}
    with alias("direct", NAME="of another site"):
        ((error_id, message),) = errors()
    assert error_id == "pgonly_django.E012"
    assert "whose NAME 'of another site' no other entry of DATABASES has" in message
