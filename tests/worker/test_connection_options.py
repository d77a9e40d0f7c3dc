from __future__ import annotations

import threading

import pytest
from django.db import connection, connections

from pgonly_django.compat import uuid7
from pgonly_django.worker.django_connections import connections_of_worker


def name_of_a_new_connection():
    found = []

    def look():
        with connection.cursor() as cursor:
            cursor.execute("SHOW application_name")
            found.extend(cursor.fetchone())
        connections.close_all()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    return found[0]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "pgonly jobs {}"),
        ("mysite", "mysite {}"),
        ("x" * 60, "x" * 26 + " {}"),
        ("Müllabfuhr", "M?llabfuhr {}"),
        ("中" * 20, "?" * 20 + " {}"),
    ],
)
def test_the_connections_of_jobs_bear_the_worker_s_id_behind_the_project_s_name(
    transactional_db, monkeypatch, given, name
):
    settings = connections.settings["default"]
    if given:
        monkeypatch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], "application_name": given})
    before, worker_id = settings["OPTIONS"], uuid7()
    with connections_of_worker(worker_id):
        assert name_of_a_new_connection() == name.format(worker_id)
    assert settings["OPTIONS"] is before


def test_a_pool_is_made_again_with_the_new_name(transactional_db):
    settings = connections.settings["default"]
    pool = {"min_size": 1, "max_size": 2, "timeout": 5}
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], "pool": pool})
        assert name_of_a_new_connection() == ""
        worker_id = uuid7()
        with connections_of_worker(worker_id):
            assert name_of_a_new_connection() == f"pgonly jobs {worker_id}"
        connection.close()
        connection.close_pool()


def test_django_s_connections_of_a_worker_notice_a_dead_server(transactional_db, monkeypatch):
    before = {**connection.settings_dict["OPTIONS"], "keepalives_count": 7}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", before)
    found = []

    def connect_anew():
        connection.ensure_connection()
        found.append(connection.connection.info.get_parameters())
        connection.close()

    with connections_of_worker(uuid7()):
        thread = threading.Thread(target=connect_anew)
        thread.start()
        thread.join()
    assert found[0]["tcp_user_timeout"] == "30000"
    assert found[0]["keepalives_count"] == "7"
    assert connections.settings["default"]["OPTIONS"] is before
