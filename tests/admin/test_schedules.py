from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from pgonly_django.models import Job, Schedule, State, Tick
from tests.admin.conftest import act, said
from tests.admin.jobs.test_cells import cells
from tests.scheduling.rows import DAY, HOUR, fresh, look, make, ticks

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/pgonly_django/schedule/"
FORM = {
    "name": "nightly", "task": "tests.jobs.add", "args": "[1]", "kwargs": "{}", "cron": "0 3 * * *",
    "timezone": "Asia/Shanghai", "every_seconds": "", "catch_up": "latest", "overlap": "skip", "queue": "",
    "priority": "", "budget": "",
}  # fmt: skip


def page_of(schedule):
    return f"{LIST}{schedule.pk}/change/"


def add(client, **changes):
    return client.post(f"{LIST}add/", {**FORM, **changes}, follow=True)


def errors_of(response):
    return {name: " ".join(errors) for name, errors in response.context["adminform"].form.errors.items()}


def test_the_list_says_what_runs_when_and_how_it_went(admin_client):
    schedule = make(cron="0 3 * * *", every_seconds=None, timezone="Asia/Shanghai", next_at=timezone.now())
    look()
    Job.objects.update(state=State.SUCCEEDED)
    response = admin_client.get(LIST)
    assert "Active" in cells(response, "state_badge")[0]
    assert "report" in cells(response, "name")[0]
    assert "tests.jobs.add" in cells(response, "name")[0]
    assert "At 03:00 every day (Asia/Shanghai)" in cells(response, "when")[0]
    assert "in " in cells(response, "next_tick")[0]
    assert "Succeeded" in cells(response, "last_run")[0]
    assert fresh(schedule).is_planned


@pytest.mark.parametrize(
    ("columns", "column", "badge"),
    [
        (lambda now: {"paused_at": now}, "state_badge", "Paused"),
        (lambda _now: {"problem": "Cannot import"}, "state_badge", "Problem"),
        (lambda now: {"declared": {}, "declared_at": now - DAY}, "state_badge", "Not in the code"),
        (lambda now: {"declared": {}, "declared_at": now}, "state_badge", "Active"),
        (lambda _now: {}, "name", "Not declared"),
        (lambda now: {"declared": {}, "edited_at": now, "declared_at": now}, "name", "Edited"),
    ],
)
def test_badges_say_what_state_a_schedule_is_in_and_whose_word_counts(admin_client, columns, column, badge):
    make(**columns(timezone.now()))
    assert badge in cells(admin_client.get(LIST), column)[0]


def test_a_run_whose_job_is_gone_reads_pruned(admin_client):
    make()
    look()
    Job.objects.all().delete()
    assert "Pruned" in cells(admin_client.get(LIST), "last_run")[0]


def test_a_schedule_is_added_by_hand_and_runs(admin_client):
    response = add(admin_client)
    assert response.redirect_chain == [(LIST, 302)]
    row = Schedule.objects.get()
    assert (row.cron, row.timezone, row.args, row.every_seconds) == ("0 3 * * *", "Asia/Shanghai", [1], None)
    assert (row.queue, row.priority, row.budget, row.declared) == (None, None, None, None)
    look()
    assert fresh(row).is_planned


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"cron": "61 * * * *"}, "cron", "is not a cron line"),
        ({"cron": "", "every_seconds": "0.01"}, "every_seconds", "from 0.1 s"),
        ({"timezone": "Asia/Shangai"}, "timezone", "Asia/Shanghai"),
        ({"task": "tests.jobs.gone"}, "task", "tests.jobs.gone"),
        ({"args": "[1, 2, 3]"}, "args", "cannot be called with these arguments"),
        ({"args": "{}"}, "args", "must be a list"),
        ({"kwargs": "[1]"}, "kwargs", "must be a dict"),
        ({"kwargs": '{"colour": 1}'}, "args", "colour"),
        ({"priority": "500"}, "priority", "-100 to 100"),
        ({"catch_up": "all"}, "overlap", 'Write overlap="allow"'),
    ],
)
def test_the_form_refuses_what_no_worker_could_enqueue(admin_client, changes, field, said):
    response = add(admin_client, **changes)
    assert said in errors_of(response)[field]
    assert not Schedule.objects.exists()


def test_empty_arguments_are_none(admin_client):
    add(admin_client, task="tests.scheduling.tasks.ahello", args="", kwargs="")
    row = Schedule.objects.get()
    assert (row.args, row.kwargs) == ([], {})


def test_an_edit_changes_what_was_changed_and_survives_a_deploy(admin_client):
    declared = {"task": "tests.jobs.add", "cron": "0 3 * * *", "timezone": "Asia/Shanghai", "args": [1]}
    Schedule.objects.declare({"nightly": declared})
    schedule = Schedule.objects.get()
    response = admin_client.post(page_of(schedule), {**FORM, "cron": "0 5 * * *"}, follow=True)
    assert response.status_code == 200
    row = fresh(schedule)
    assert (row.cron, row.is_planned) == ("0 5 * * *", False)
    assert row.edited_at is not None
    Schedule.objects.declare({"nightly": {**declared, "cron": "0 6 * * *"}})
    assert fresh(schedule).cron == "0 5 * * *"
    assert [entry.object_repr for entry in LogEntry.objects.all()] == ["nightly"]


def test_saving_without_a_change_is_no_edit(admin_client):
    Schedule.objects.declare({"nightly": {"task": "tests.jobs.add", "cron": "0 3 * * *", "args": [1]}})
    schedule = Schedule.objects.get()
    assert ">\nnull<" not in admin_client.get(page_of(schedule)).text
    response = admin_client.post(page_of(schedule), {**FORM, "timezone": schedule.timezone, "metadata": ""})
    assert response.context is None, response.context["adminform"].form.errors
    assert fresh(schedule).edited_at is None


def test_the_buttons_are_those_that_the_state_allows(admin_client):
    schedule = make()
    assert re.findall(r"/operate/(\w+)/", admin_client.get(page_of(schedule)).text) == ["run", "pause"]
    Schedule.objects.all().pause()
    Schedule.objects.update(declared={"task": "x"}, edited_at=timezone.now())
    found = re.findall(r"/operate/(\w+)/", admin_client.get(page_of(schedule)).text)
    assert found == ["run", "resume", "reset"]


def test_run_now_enqueues_one_job_and_notes_who_did_it(admin_client):
    schedule = make(next_at=timezone.now() + HOUR, paused_at=timezone.now())
    response = admin_client.post(f"{LIST}{schedule.pk}/operate/run/", follow=True)
    assert "Run now: 1 schedule." in response.text
    (job,) = Job.objects.all()
    (tick,) = ticks(schedule)
    assert (tick.job_id, tick.by_person, job.args) == (job.pk, True, [1])
    assert fresh(schedule).next_at == schedule.next_at
    assert "by hand" in response.text


def test_a_refused_run_says_why_and_leaves_nothing(admin_client):
    schedules = make("sound"), make(task="tests.jobs.gone")
    (message,) = said(act(admin_client, "run_schedules", schedules, LIST))
    assert message.startswith("report cannot be run: UnknownTaskError:")
    assert not Job.objects.exists()
    assert not Tick.objects.exists()
    assert not LogEntry.objects.exists()


SECRETIVE = {"task": "tests.jobs.editing.pay", "args": ["7", "hunter2"], "kwargs": {"note": "xyzzy"}}


@pytest.mark.parametrize("more", [(), ("change_schedule",)])
def test_who_may_not_see_the_data_of_jobs_sees_no_arguments_of_schedules(client, person, more):
    schedule = make(**SECRETIVE)
    person("view_schedule", "operate_schedule", *more)
    html = client.get(page_of(schedule)).text
    assert "xyzzy" not in html
    assert "hunter2" not in html


def test_arguments_that_are_only_looked_at_are_masked(client, person):
    schedule = make(**SECRETIVE)
    person("view_schedule", "view_job_data")
    html = client.get(page_of(schedule)).text
    assert "xyzzy" in html
    assert "hunter2" not in html


def test_who_may_not_see_the_arguments_changes_the_rest(client, person):
    schedule = make(**SECRETIVE)
    person("view_schedule", "change_schedule")
    changed = {**FORM, "task": SECRETIVE["task"], "args": "[]", "kwargs": "{}", "priority": "3"}
    assert client.post(page_of(schedule), changed).status_code == 302
    row = fresh(schedule)
    assert (row.priority, row.args, row.kwargs) == (3, SECRETIVE["args"], SECRETIVE["kwargs"])


PROBLEM = "WrongArgumentsError: pay() got note='hunter2'"


def test_why_a_schedule_failed_is_told_to_those_who_may_see_arguments(client, person):
    schedule = make(**SECRETIVE, problem=PROBLEM)
    other = make(name="other", problem="hunter2 is no such class")
    pages = (LIST, page_of(schedule), page_of(other), "/admin/pgonly_django/")
    person("view_schedule")
    for page in pages:
        text = client.get(page).text
        assert "A person who may see the arguments of jobs sees why." in text, page
        assert "hunter2" not in text, page
    assert "WrongArgumentsError." in client.get(LIST).text
    assert client.get(f"{LIST}?problem__startswith=W").status_code == 400
    person("view_schedule", "view_job_data")
    for page in pages:
        assert "hunter2" in client.get(page).text, page


@pytest.mark.parametrize("column", ["kwargs", "declared__kwargs"])
def test_no_filter_tells_the_arguments_of_a_schedule(client, person, column):
    make(**SECRETIVE, declared={"kwargs": SECRETIVE["kwargs"]})
    person("view_schedule")
    assert client.get(f"{LIST}?{column}__note__startswith=x").status_code == 400


def test_the_page_shows_the_ticks_with_their_jobs_and_the_next_ones(admin_client):
    schedule = make(cron="0 3 * * *", every_seconds=None, timezone="Asia/Shanghai")
    look()
    Schedule.objects.update(next_at=timezone.now() - timedelta(milliseconds=1))
    look()
    Schedule.objects.update(task="tests.jobs.another")
    response = admin_client.get(page_of(schedule))
    (job,) = Job.objects.all()
    assert f'/job/{job.pk}/change/" title="{job.pk}">add</a>' in response.text
    assert re.search(r">Skipped</span>\s*<span [^>]*>An earlier run is ready.", response.text)
    assert response.text.count(" 03:00:00 CST") == 5
    assert response.text.count(" CST</td>") == 2
    (address,) = re.findall(r'href="([^"]+)">All its jobs<', response.text)
    assert [row.pk for row in admin_client.get(unescape(address)).context["cl"].result_list] == [job.pk]


def test_a_declared_schedule_cannot_be_deleted_while_workers_declare_it(admin_client):
    declared = make("declared", declared={"task": "x"}, declared_at=timezone.now())
    made = make("made")
    assert admin_client.post(f"{LIST}{declared.pk}/delete/", {"post": "yes"}).status_code == 403
    admin_client.post(f"{LIST}{made.pk}/delete/", {"post": "yes"})
    assert list(Schedule.objects.values_list("name", flat=True)) == ["declared"]
    assert "delete_selected" not in admin_client.get(LIST).text


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["a/b c", "100 %", "ü", "x" * 255, '<b>"quoted"</b>', "a_2Fb"])
def test_a_name_may_be_any_text(admin_client, name):
    make(name)
    link = admin_client.get(LIST).text.split('field-state_badge"><a href="')[1].split('"')[0]
    page = admin_client.get(link.replace("&amp;", "&"))
    assert page.status_code == 200
    assert "<b>" not in page.text
    action = page.text.split('/operate/pause/"')[0].rpartition('action="')[2] + "/operate/pause/"
    assert admin_client.post(action, follow=True).status_code == 200
    assert Schedule.objects.get().paused_at is not None


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "columns",
    [{"cron": "61 * * * *"}, {"timezone": "Nowhere", "cron": "0 3 * * *"}],
)
def test_the_page_of_an_odd_row_opens(admin_client, columns):
    schedule = make(**columns)
    assert admin_client.get(LIST).status_code == 200
    assert admin_client.get(page_of(schedule)).status_code == 200


def test_a_refused_edit_shows_the_schedule_as_it_is(admin_client):
    schedule = make(every_seconds=3600)
    response = admin_client.post(page_of(schedule), {**FORM, "cron": "", "every_seconds": ""})
    assert "it needs either a cron line or an interval" in errors_of(response)["cron"]
    assert "Every hour" in response.text
