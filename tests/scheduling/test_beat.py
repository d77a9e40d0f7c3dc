"""The tables are those of django-celery-beat 2.9, the objects have the attributes of Celery 5.7's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from pgonly_django.models import Schedule
from tests.scheduling.rows import MINUTE, fresh, jobs, look, make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
TABLES = """
CREATE TABLE django_celery_beat_crontabschedule (
    id serial PRIMARY KEY, minute varchar(240), hour varchar(96), day_of_month varchar(124),
    month_of_year varchar(64), day_of_week varchar(64), timezone varchar(63)
);
CREATE TABLE django_celery_beat_intervalschedule (id serial PRIMARY KEY, every integer, period varchar(24));
CREATE TABLE django_celery_beat_periodictask (
    id serial PRIMARY KEY, name varchar(200), task varchar(200), interval_id integer, crontab_id integer,
    solar_id integer, clocked_id integer, args text DEFAULT '[]', kwargs text DEFAULT '{}', queue varchar(200),
    exchange varchar(200), routing_key varchar(200), headers text DEFAULT '{}', priority integer, expires timestamptz,
    expire_seconds integer, one_off boolean DEFAULT false, start_time timestamptz, enabled boolean DEFAULT true,
    last_run_at timestamptz, total_run_count integer DEFAULT 0, date_changed timestamptz, description text DEFAULT ''
)
"""
CRONTAB = {
    "minute": {0}, "hour": {3}, "day_of_month": set(range(1, 32)), "month_of_year": set(range(1, 13)),
    "day_of_week": set(range(7)),
}  # fmt: skip


@pytest.fixture
def periodic_task(transactional_db):
    """Writes a row as django-celery-beat does; returns its name."""
    names = ("periodictask", "intervalschedule", "crontabschedule")
    with connection.cursor() as cursor:
        cursor.execute(TABLES)

    def insert(name, *, crontab=None, every=None, **columns):
        with connection.cursor() as cursor:
            if crontab is not None:
                values = [*crontab.split(), columns.pop("timezone", "UTC")]
                cursor.execute(
                    "INSERT INTO django_celery_beat_crontabschedule "
                    "(minute, hour, day_of_month, month_of_year, day_of_week, timezone) "
                    "VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
                    values,
                )
                columns["crontab_id"] = cursor.fetchone()[0]
            if every is not None:
                cursor.execute(
                    "INSERT INTO django_celery_beat_intervalschedule (every, period) VALUES (%s, %s) RETURNING id",
                    every,
                )
                columns["interval_id"] = cursor.fetchone()[0]
            columns = {"name": name, "task": "tests.jobs.add", "args": "[1]", **columns}
            marks = ", ".join(["%s"] * len(columns))
            cursor.execute(
                f"INSERT INTO django_celery_beat_periodictask ({', '.join(columns)}) VALUES ({marks})",
                list(columns.values()),
            )
        return name

    yield insert
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"DROP TABLE django_celery_beat_{name}")


def imported(capsys, **options):
    """What the command says, by name."""
    call_command("pgonly_import_beat", no_color=True, **options)
    lines = capsys.readouterr().out.splitlines()
    return {line.partition("  ")[2].partition(": ")[0]: line for line in lines[:-1]}, lines[-1]


def test_crontabs_and_intervals_of_the_tables_are_imported(periodic_task, capsys):
    periodic_task(
        "nightly", crontab="0 3 * * mon-fri", timezone="Asia/Shanghai", kwargs='{"b": 2}', queue="ai"
    )
    periodic_task("often", every=(5, "minutes"))
    said, summary = imported(capsys)
    nightly, often = Schedule.objects.order_by("name")
    assert (nightly.cron, nightly.timezone, nightly.args, nightly.kwargs, nightly.queue) == (
        "0 3 * * 1-5", "Asia/Shanghai", [1], {"b": 2}, "ai",
    )  # fmt: skip
    assert (often.every_seconds, often.overlap, often.declared, often.paused_at) == (
        300.0,
        "allow",
        None,
        None,
    )
    assert "Every 5 minutes, tests.jobs.add" in said["often"]
    assert summary == "2 imported, 0 left out."


def test_an_interval_goes_on_from_celerys_last_run(periodic_task, capsys):
    last = timezone.now() - timedelta(seconds=30)
    name = periodic_task("often", every=(1, "minutes"), last_run_at=last)
    imported(capsys)
    look()
    assert jobs() == []
    assert Schedule.objects.get(name=name).next_at == last + MINUTE


def test_a_deploy_leaves_what_was_imported_alone(periodic_task, capsys):
    periodic_task("often", every=(1, "hours"))
    imported(capsys)
    Schedule.objects.declare({"often": {"task": "tests.jobs.add", "every_seconds": 5.0}})
    assert Schedule.objects.get().every_seconds == 3600.0


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"enabled": False}, "paused"),
        ({"task": "mail.send"}, "Cannot import the task mail.send"),
        ({"args": "[1, 2, 3]"}, "too many positional arguments"),
        ({"start_time": datetime(2030, 1, 1, tzinfo=UTC)}, "it was to start at 2030"),
    ],
)
def test_what_may_not_run_yet_is_paused(periodic_task, capsys, columns, said):
    periodic_task("often", every=(1, "hours"), **columns)
    lines, _ = imported(capsys)
    assert said in lines["often"]
    assert Schedule.objects.get().paused_at is not None


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"solar_id": 1}, "solar and clocked"),
        ({"clocked_id": 1}, "solar and clocked"),
        ({"every": (1, "hours"), "one_off": True}, "only once"),
        ({"crontab": "0 0 13 * fri"}, "both match"),
        ({"crontab": "99 0 * * *"}, "'99'"),
        ({"every": (5, "microseconds")}, "from 0.1 s"),
        ({"every": (1, "hours"), "args": "nonsense"}, "Expecting value"),
        ({"every": (1, "hours"), "args": "{}"}, "args must be a list"),
        ({"crontab": "0 0 * * *", "timezone": "Nowhere/Land"}, "not a time zone"),
    ],
)
def test_what_cannot_be_a_schedule_is_left_out_with_the_reason(periodic_task, capsys, columns, said):
    periodic_task("odd", **columns)
    periodic_task("sound", every=(1, "hours"))
    lines, summary = imported(capsys)
    assert said in lines["odd"]
    assert summary == "1 imported, 1 left out."
    assert Schedule.objects.get().name == "sound"


def test_what_is_not_taken_over_is_said(periodic_task, capsys):
    periodic_task("often", every=(1, "hours"), priority=3, expire_seconds=60)
    lines, _ = imported(capsys)
    assert "priority is not taken over; expire_seconds is not taken over" in lines["often"]


def test_it_may_be_run_again(periodic_task, capsys):
    periodic_task("often", every=(1, "hours"))
    imported(capsys)
    schedule = Schedule.objects.get()
    Schedule.objects.all().edit(every_seconds=5.0)
    lines, _ = imported(capsys)
    assert "a schedule of this name exists" in lines["often"]
    assert fresh(schedule).every_seconds == 5.0
    imported(capsys, overwrite=True)
    assert fresh(schedule).every_seconds == 3600.0


def test_a_dry_run_writes_nothing(periodic_task, capsys):
    periodic_task("often", every=(1, "hours"))
    lines, summary = imported(capsys, dry_run=True)
    assert "imported" in lines["often"]
    assert summary == "Nothing was written. 1 imported, 0 left out."
    assert not Schedule.objects.exists()


def test_all_may_be_paused_and_overlap_may_be_another(periodic_task, capsys):
    periodic_task("often", every=(1, "hours"))
    imported(capsys, paused=True, overlap="skip")
    row = Schedule.objects.get()
    assert (row.overlap, row.paused_at is None) == ("skip", False)


def test_a_task_may_have_another_path_here(periodic_task, capsys):
    periodic_task("often", every=(1, "hours"), task="mail.send")
    imported(capsys, task=["mail.send=tests.jobs.add"])
    row = Schedule.objects.get()
    assert (row.task, row.paused_at) == ("tests.jobs.add", None)


def test_the_settings_of_celery_are_imported(settings, capsys):
    settings.CELERY_TIMEZONE = "Europe/Berlin"
    settings.CELERY_BEAT_SCHEDULE = {
        "seconds": {"task": "tests.jobs.add", "schedule": 30.0, "args": (1,)},
        "delta": {"task": "tests.jobs.add", "schedule": timedelta(minutes=5), "args": (1,), "options": {"queue": "q"}},
        "object": {"task": "tests.jobs.add", "schedule": SimpleNamespace(run_every=timedelta(hours=1)), "args": [1]},
        "crontab": {"task": "tests.jobs.add", "schedule": SimpleNamespace(**CRONTAB), "args": [1]},
        "own zone": {
            "task": "tests.jobs.add", "schedule": SimpleNamespace(**CRONTAB, tz="Asia/Tokyo"), "args": [1],
        },
        "solar": {"task": "tests.jobs.add", "schedule": SimpleNamespace(event="sunset")},
        "none": {"task": "tests.jobs.add"},
    }  # fmt: skip
    lines, summary = imported(capsys)
    rows = {row.name: row for row in Schedule.objects.all()}
    assert summary == "5 imported, 2 left out."
    assert {name: row.every_seconds for name, row in rows.items() if row.cron is None} == {
        "seconds": 30.0, "delta": 300.0, "object": 3600.0,
    }  # fmt: skip
    assert rows["delta"].queue == "q"
    assert (rows["crontab"].cron, rows["crontab"].timezone) == ("0 3 * * *", "Europe/Berlin")
    assert rows["own zone"].timezone == "Asia/Tokyo"
    assert "neither a crontab nor an interval" in lines["solar"]


def test_the_tables_win_over_the_settings(periodic_task, settings, capsys):
    periodic_task("often", every=(1, "hours"))
    settings.CELERY_BEAT_SCHEDULE = {"often": {"task": "tests.jobs.add", "schedule": 5, "args": [1]}}
    _, summary = imported(capsys)
    assert summary == "1 imported, 1 left out."
    assert Schedule.objects.get().every_seconds == 3600.0


APP = SimpleNamespace(
    conf=SimpleNamespace(beat_schedule={"often": {"task": "tests.jobs.add", "schedule": 5, "args": [1]}})
)


def test_an_app_of_celerys_is_read(db, capsys):
    imported(capsys, app="tests.scheduling.test_beat.APP")
    assert Schedule.objects.get().every_seconds == 5.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Nothing to import"),
        ({"app": "no.such.app"}, "--app no.such.app"),
        ({"app": "tests.waiting.wait_for"}, "conf"),
        ({"task": ["mail.send"]}, "CELERY=OURS"),
    ],
)
def test_a_wrong_call_says_what_to_do(options, said):
    with pytest.raises(CommandError, match=said):
        call_command("pgonly_import_beat", **options)


def test_it_reads_a_table_without_time_zones(periodic_task, settings, capsys):
    with connection.cursor() as cursor:
        periodic_task("nightly", crontab="0 3 * * *")
        cursor.execute("ALTER TABLE django_celery_beat_crontabschedule DROP COLUMN timezone")
    settings.CELERY_TIMEZONE = "Asia/Tokyo"
    imported(capsys)
    assert Schedule.objects.get().timezone == "Asia/Tokyo"


def test_make_of_the_tests_is_left_alone(db, settings, capsys):
    make("mine")
    settings.CELERY_BEAT_SCHEDULE = {"theirs": {"task": "tests.jobs.add", "schedule": 5, "args": [1]}}
    imported(capsys, overwrite=True)
    assert Schedule.objects.get(name="mine").every_seconds == 3600.0
