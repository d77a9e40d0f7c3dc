"""The page of the doctor in the admin."""

from __future__ import annotations

import re

import pytest
from django.db import connection

from pgonly_django.admin.doctor import parts_of
from pgonly_django.models import Queue
from pgonly_django.monitoring.conditions import WAITS_FORGOTTEN
from pgonly_django.monitoring.doctor import server
from pgonly_django.monitoring.findings import Level
from tests.admin.test_roles import broken
from tests.admin.test_sidebar import sidebar_of
from tests.queue.rows import DAY, HOUR, ago, make, make_running, make_waiting, make_worker

pytestmark = pytest.mark.django_db(transaction=True)
HOME = "/admin/pgonly_django/"
PAGE = f"{HOME}doctor/"


def found(response):
    """What the page shows above a note, as (id, fact)."""
    findings = [finding for finding, *_ in response.context_data["findings"]]
    return [(each.id, each.fact) for each in findings if each.level != Level.INFO]


def test_findings_are_shown_with_their_advice_the_worst_first(admin_client):
    make_worker(queues=["mail"])
    make_worker(hostname="<b>h</b>", name="<script>", silent_for=HOUR / 2)
    make(queue="<i>ai</i>", ready_at=ago(HOUR))
    response = admin_client.get(PAGE)
    assert response.status_code == 200
    assert response.text.index("D111") < response.text.index("D122")
    assert "&lt;i&gt;ai" in response.text
    assert "<code>manage.py runworker --queues" in response.text
    assert "<i>ai" not in response.text
    assert "Indexes" in response.text
    assert broken(response.text) == []


def actions(client):
    """The links and buttons of the findings."""
    text = client.get(PAGE).text
    links = re.findall(r'<a class="pgonly-button" href="([^"]*)">(The [^<]*)<', text)
    return links, re.findall(r'action="([^"]*/operate/[^"]*)"', text)


def test_what_can_be_done_on_a_page_has_a_button(admin_client):
    make_worker()
    lost = make_worker(name="lost", silent_for=HOUR / 2)
    make_running(lost.pk)
    make(queue="ai", ready_at=ago(HOUR)), Queue.objects.named("ai").pause()
    make_waiting(since=9 * DAY)
    links, buttons = actions(admin_client)
    assert dict(links) == {
        f"{HOME}queue/ai/change/": "The queue",
        f"{HOME}worker/{lost.pk}/change/": "The worker",
        f"{HOME}wait/?waits=all": "The waits",
    }
    (resume,) = buttons
    assert admin_client.post(resume, {"next": PAGE})["Location"] == PAGE
    assert Queue.objects.get().paused_at is None


def test_who_may_not_operate_has_no_button_and_who_sees_no_queues_no_link(client, person):
    make_worker()
    make(queue="ai", ready_at=ago(HOUR)), Queue.objects.named("ai").pause()
    person("view_doctor", "view_queue")
    assert actions(client) == ([(f"{HOME}queue/ai/change/", "The queue")], [])
    person("view_doctor")
    assert actions(client) == ([], [])


def test_a_healthy_database(admin_client):
    make_worker()
    assert found(admin_client.get(PAGE)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("may", "status"),
    [
        (["view_doctor"], 200),
        (["view_doctor", "view_job"], 200),
        (["view_job", "view_worker"], 403),
        ([], 403),
    ],
)
def test_who_may_open_it_and_gets_the_link(client, person, may, status):
    person(*may)
    assert client.get(PAGE).status_code == status
    if "view_job" in may:  # without any panel there is no overview
        assert (PAGE in client.get(HOME).text) == (status == 200)
        sidebar = sidebar_of(client.get(f"{HOME}job/"))
        assert (sidebar.get("Doctor") == PAGE) == (status == 200)


def test_an_unknown_database_is_not_found(admin_client):
    assert admin_client.get(f"{PAGE}?database=other").status_code == 404
    assert admin_client.get(f"{PAGE}?database=default").status_code == 200


def test_a_database_that_does_not_answer_is_said(admin_client, monkeypatch):
    def gone(*_):
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM gone")

    monkeypatch.setattr(server, "server_of", gone)
    response = admin_client.get(PAGE)
    assert response.status_code == 200
    assert "The database did not answer" in response.text


def test_a_notify_is_tested_under_atomic_requests(admin_client, monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    make_worker()
    response = admin_client.get(PAGE)
    assert found(response) == []
    assert "D065" not in response.text


def test_commands_and_sql_of_an_advice_are_code():
    advice = "If it was forgotten, end it: SELECT pg_terminate_backend(7); Later, try manage.py migrate --database x."
    assert [text for is_code, text in parts_of(advice) if is_code] == [
        "SELECT pg_terminate_backend(7);", "manage.py migrate --database x",
    ]  # fmt: skip
    assert "".join(text for _, text in parts_of(advice)) == advice


def test_the_command_of_an_advice_ends_with_its_sentence():
    assert [
        text for is_code, text in parts_of(WAITS_FORGOTTEN.advice.format(job="7", _database="")) if is_code
    ] == ["manage.py pgonly_jobs cancel 7"]
