"""Rows with values that no code of ours writes: every column of every model, with values that its type allows."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import Permission
from django.db import DatabaseError, connection, transaction

from pgonly_django.masking import MASK
from pgonly_django.models import (
    Checkpoint,
    Job,
    JobBatch,
    JobStats,
    LimiterSlot,
    LimiterWaiter,
    Step,
    Tick,
)
from pgonly_django.progress.look import Wanted, look
from pgonly_django.progress.tokens import Grant
from tests.admin.conftest import LIST, make_job, page_of
from tests.admin.rows import pages_of, rows_of_all_models
from tests.management.conftest import jobs  # noqa: F401 - a fixture

HOME = "/admin/pgonly_django/"
pytestmark = pytest.mark.django_db
DIGITS, DEEP, EVIL = "1" * 5000, "[" * 3000 + "]" * 3000, "\u202e<i>&\t\n\x01"


def entry(**members):
    return json.dumps([members])


JSON = [
    "5", "[1]", '{"done": "x", "total": [1]}', entry(at=5, text=6), "null", '["x"]', "[null]", DEEP, "[[]]", "true",
    f'{{"a": {DIGITS}}}', '{"done": 1, "total": 5, "since": 7, "message": [1]}', '{"a": ["x", 1]}', '{"a": []}',
    entry(outcome=5, attempt="x", worker=[1], exception=5, message={"a": 1}, traceback=7, reason=[1], in_a_row="x"),
    entry(at="2026-13-45T00:00:00", text="x"), entry(outcome="held"), entry(started_at=5, step=3), f"[{DIGITS}]",
    '{"done": 1, "since": {"done": "x", "seconds": "y"}}', entry(at="0001-01-01T00:00:00+14:00", text="x"), "[{}]",
    '{"task": 5, "traceparent": 5}', '{"done": 1e308, "total": 1e-300}', DIGITS, '"x"',
    entry(outcome="failed", started_at="2026-01-01", finished_at="2026-01-01T00:00:00+00:00"),
]  # fmt: skip
DAYS = [
    "infinity",
    "-infinity",
    "4714-11-24 00:00:00+00 BC",
    "294276-12-31 23:59:59+00",
    "0001-01-01 00:00+00",
]
VALUES = {
    "jsonb": JSON,
    "timestamp": DAYS,
    "interval": ["178000000 years", "-178000000 years", "-1 day", "0"],
    "text": ["", EVIL, "x" * 60],
    "varchar": ["", EVIL, "x" * 16],
    "smallint": [-(2**15), 2**15 - 1],
    "integer": [-(2**31), 2**31 - 1],
    "bigint": [-(2**40), 2**40],  # the overview says when the sum of a panel is out of range
    "numeric": ["NaN", "0", "-5", "99999999.999999", "999999999999"],
    "double": ["NaN", "Infinity", "-Infinity", "1e308", "-1", "5e-324"],
    "boolean": [True, False],
    "uuid": ["ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "inet": ["::ffff:1.2.3.4/96", "::/0"],
    "bytea": [b"", b"\x00\xff"],
}  # of PostgreSQL 14, whose intervals are never infinite


def rows_with_all_columns():
    """All rows by model, and those that have no page."""
    rows = rows_of_all_models()
    JobBatch.objects.create(name="b")
    shown_with_others = (Step, Checkpoint, Tick, JobStats, LimiterSlot, LimiterWaiter, JobBatch)
    return rows, [row for its in rows.values() for row in its] + [
        model.objects.first() for model in shown_with_others
    ]


def update(row, columns):
    """Returns whether the table allows it."""
    key = row._meta.pk
    assignments = ", ".join(f'"{name}" = %s' for name in columns)
    of_row = key.get_db_prep_value(row.pk, connection)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            text = f'UPDATE {connection.ops.quote_name(row._meta.db_table)} SET {assignments} WHERE "{key.column}" = %s'
            cursor.execute(text, [*columns.values(), of_row])
    except DatabaseError:
        return False
    return True


def make_odd(row, turn):
    """Gives each column of the row another odd value. Those with choices have one in every third turn only, since what
    is shown follows from the state; a job of no backend is shown to nobody."""
    columns = {}
    for place, field in enumerate(row._meta.concrete_fields):
        values = VALUES.get(field.db_type(connection).split("(")[0].split()[0])
        stays = field.primary_key or field.is_relation or field.generated or field.name == "backend"
        if values and not (stays or (field.choices and turn % 3)):
            columns[field.column] = values[(turn + place) % len(values)]
    if not update(row, columns):
        for column, value in columns.items():
            update(row, {column: value})


@pytest.mark.sample(4)
@pytest.mark.parametrize("turn", range(len(JSON)))
def test_odd_values_break_no_page_no_command_and_no_box(admin_client, jobs, turn):  # noqa: F811 - the fixture
    rows, odd = rows_with_all_columns()
    for number, row in enumerate(odd):
        make_odd(row, turn + number)
    for page in sorted({page for model in rows for page in pages_of(model, rows, HOME)}):
        answer = admin_client.get(page)
        assert answer.status_code == 200 or "/wait/" in page, page  # one of an earlier run has no page
        assert "pgonly-problem" not in answer.text, page
    ids = [str(job.pk) for job in rows[Job]]
    for page in (f"{LIST}{pk}/{name}/" for pk in ids for name in ("again", "edit")):
        assert admin_client.get(page).status_code in (200, 302), page
    jobs("list"), jobs("list", "--json"), jobs("show", *ids), jobs("show", *ids, "--json")
    json.dumps(look([Wanted(Grant("default", pk, shows_output=True, may_cancel=True)) for pk in ids]))


def make_unreadable(**columns):
    job = make_job(args=[1], kwargs={"b": 2})
    assert update(job, columns)
    return job


def test_what_cannot_be_read_is_shown_as_it_is(admin_client, jobs):  # noqa: F811 - the fixture
    odd = {
        "args": "7",
        "kwargs": "5",
        "errors": "[6]",
        "log": "[1]",
        "progress": '{"done": "x", "total": [1]}',
    }
    job = make_unreadable(**odd, enqueued_at="infinity")
    line = admin_client.get(LIST).text
    page, listed, shown = (
        admin_client.get(page_of(job)).text,
        jobs("list", "--json"),
        jobs("show", str(job.pk)),
    )
    assert "args: 7" in line
    assert "kwargs: 5" in line
    for name, value in odd.items():
        text = value.replace('"', "&quot;")
        assert f"Unreadable: {name}" in page, name
        assert text in page, name
        assert f"{name:20} {value}" in shown.splitlines(), name
    assert json.loads(listed)[0]["progress"] == odd["progress"]
    assert json.loads(listed)[0]["enqueued_at"].startswith("9999-12-30")
    (box,) = look([Wanted(Grant("default", str(job.pk)))])
    assert (box["state"], box["percent"], box["message"]) == ("ready", None, "")


def test_a_person_without_the_permission_sees_nothing_of_what_cannot_be_read(client, django_user_model):
    job = make_unreadable(log='["hunter2"]', kwargs='"hunter2"')
    reader = django_user_model.objects.create_user("reader", password="-", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_job"))
    client.force_login(reader)
    for page in (LIST, page_of(job)):
        answer = client.get(page)
        assert answer.status_code == 200
        assert "hunter2" not in answer.text


def test_secrets_in_what_cannot_be_read_are_masked(admin_client):
    job = make_unreadable(kwargs=f'{{"password": "hunter2", "a": {DIGITS}}}')
    of_unknown_task = make_unreadable(task="gone.task", args=f'["hunter3", {DIGITS}]')
    assert "hunter" not in admin_client.get(LIST).text
    for page in (page_of(job), page_of(of_unknown_task)):
        text = admin_client.get(page).text
        assert "hunter" not in text
        assert MASK in text


@pytest.mark.parametrize("name", ["again", "edit"])
def test_arguments_that_cannot_be_read_are_refused_until_they_are_changed(admin_client, name):
    job = make_unreadable(kwargs="5")
    form = admin_client.get(f"{LIST}{job.pk}/{name}/").context["form"]
    data = {**form.initial, "run_at": "", "version": form.initial.get("version", "")}
    refused = admin_client.post(f"{LIST}{job.pk}/{name}/", data)
    assert refused.status_code == 200
    assert "kwargs" in refused.context["form"].errors
    done = admin_client.post(f"{LIST}{job.pk}/{name}/", {**data, "args": "[1, 2]", "kwargs": "{}"})
    assert done.status_code == 302
    assert Job.objects.latest("pk").args == [1, 2]
