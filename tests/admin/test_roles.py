"""Who may open which page, and press which button: a superuser, an operator (view and operate, no data), a reader
(view), and a member of staff without any permission. Every page, verb and action of the app has to be in the tables."""

from __future__ import annotations

import re

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.utils import timezone

from pgonly_django.admin.base import PageAdmin
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.models import (
    Budget,
    CacheEntry,
    CostEntry,
    DurableCacheEntry,
    Limiter,
    Queue,
    Schedule,
    Session,
    State,
)
from tests.admin.conftest import make_entry, make_job, make_session
from tests.admin.test_workers import make_worker
from tests.queue.rows import make_gathering, make_waiting

pytestmark = pytest.mark.django_db

HOME = "/admin/pgonly_django/"
ADMINS = {
    model._meta.model_name: model_admin
    for model, model_admin in admin.site._registry.items()
    if model._meta.app_label == "pgonly_django"
}
OF_ROWS = {name: each for name, each in ADMINS.items() if not isinstance(each, PageAdmin)}
NOW, LATER = "2026-01-01T00:00Z", "9999-01-01T00:00Z"

ROLES = {
    "operator": lambda codename: codename.startswith(("view_", "operate_")) and "data" not in codename,
    "reader": lambda codename: codename.startswith("view_") and "data" not in codename,
    "nobody": lambda codename: False,
}


def log_in(client, role: str) -> User:
    user = User.objects.create_user(role, is_staff=True, is_superuser=role == "superuser")
    ours = Permission.objects.filter(content_type__app_label="pgonly_django")
    may = ROLES.get(role, lambda codename: False)
    user.user_permissions.set([each for each in ours if may(each.codename)])
    client.force_login(user)
    return user


def declared(model, **fields):
    return lambda: model.objects.create(**{"name": "a:1", **fields})


def edited(model, **fields):
    return declared(model, declared={}, edited_at=NOW, **fields)


SCHEDULE = {"task": "tests.jobs.add", "args": [1, 2], "cron": "0 3 * * *", "timezone": "UTC"}

# A row of each model, for its pages.
ROWS = {
    "job": lambda: make_job(State.READY, task="tests.jobs.add", args=[1, 2]),
    "worker": lambda: make_worker(version="1"),
    "queue": declared(Queue),
    "limiter": declared(Limiter),
    "schedule": declared(Schedule, **SCHEDULE),
    "budget": declared(Budget, usd=5),
    "session": make_session,
    "cacheentry": lambda: make_entry(CacheEntry),
    "durablecacheentry": lambda: make_entry(DurableCacheEntry),
    "wait": lambda: make_waiting(question="Include?", choices=["yes"]),
    "jobbatch": lambda: make_gathering(ready=1),
    "costentry": lambda: CostEntry.objects.create(usd=1, budget="a"),
    **dict.fromkeys(("overview", "doctor"), make_worker),  # they have no pages of rows
}

# A row that allows each verb.
OF_VERBS = {
    ("job", "resume"): lambda: make_job(State.HELD),
    ("job", "run_now"): lambda: make_job(State.SCHEDULED),
    ("job", "retry"): lambda: make_job(State.FAILED),
    ("job", "hold"): lambda: make_job(State.READY),
    ("job", "cancel"): lambda: make_job(State.READY),
    ("job", "discard"): lambda: make_job(State.READY),
    ("worker", "stop"): ROWS["worker"],
    ("worker", "drain"): ROWS["worker"],
    ("queue", "pause"): ROWS["queue"],
    ("queue", "resume"): declared(Queue, paused_at=NOW),
    ("queue", "reset"): edited(Queue),
    ("limiter", "cool_down_1"): ROWS["limiter"],
    ("limiter", "cool_down_15"): ROWS["limiter"],
    ("limiter", "end_cool_down"): declared(Limiter, blocked_until=LATER),
    ("limiter", "reset"): edited(Limiter),
    ("schedule", "run"): ROWS["schedule"],
    ("schedule", "pause"): ROWS["schedule"],
    ("schedule", "resume"): declared(Schedule, **SCHEDULE, paused_at=NOW),
    ("schedule", "reset"): edited(Schedule, **SCHEDULE),
    ("budget", "raise"): ROWS["budget"],
    ("budget", "resume"): ROWS["budget"],
    ("budget", "start_over"): ROWS["budget"],
    ("budget", "reset"): edited(Budget, usd=5),
    ("jobbatch", "cancel"): lambda: make_gathering(ready=1),
    ("session", "revoke"): make_session,
    ("session", "revoke_user"): make_session,
}
# Those need the permission to delete: an operator has it not.
BY_DELETION = {"session"}
# All others are written by the app alone.
EDITED_BY_HAND = {"queue", "limiter", "schedule", "budget"}
VERBS = {(name, verb.name): verb for name, each in ADMINS.items() for verb in getattr(each, "verbs", ())}

SEEN = {"superuser": 200, "operator": 200, "reader": 200, "nobody": 403}
FOR_SUPERUSERS = {"superuser": 200, "operator": 403, "reader": 403, "nobody": 403}
FOR_OPERATORS = {"superuser": 200, "operator": 200, "reader": 403, "nobody": 403}
CLOSED = dict.fromkeys(SEEN, 403)
LEADS_ON = {**dict.fromkeys(SEEN, 302), "nobody": 403}
# By the end of the name of a page; the first that fits.
PAGES = {
    **dict.fromkeys(("overview_changelist", "overview_seen"), LEADS_ON),
    **dict.fromkeys(("worker_add", "job_add", "session_add", "costentry_add", "entry_add"), CLOSED),
    **dict.fromkeys(
        ("worker_delete", "costentry_delete", "wait_add", "wait_delete", "batch_add", "batch_delete"), CLOSED
    ),
    "job_answer": {**FOR_OPERATORS, "superuser": 302, "operator": 302},  # nothing waits under no key
    **dict.fromkeys(("add", "delete", "clear"), FOR_SUPERUSERS),
    **dict.fromkeys(("edit", "again", "bulk"), FOR_OPERATORS),
    **dict.fromkeys(("changelist", "change", "history", "numbers", "sums", "more"), SEEN),
}


def pages_of(name: str) -> dict[str, str]:
    """The addresses of the model's pages, with "{}" for a row, by their names. Buttons are posted to, below."""
    routes = {url.name: str(url.pattern) for url in ADMINS[name].get_urls() if url.name}
    row = r"<(path|str|int):object_id>"
    return {page: re.sub(row, "{}", route) for page, route in routes.items() if not page.endswith("_operate")}


def addresses_of(name: str, row) -> dict[str, str]:
    """The pages of the model and of this row."""
    alias = "answers" if name == "durablecacheentry" else "none"
    found = {}
    for page, address in pages_of(name).items():
        full = f"{HOME}{name}/{address}".replace("<path:alias>", alias)
        found[page] = full.replace("<str:name>", "cancel").format(quote(row.pk))
    return found


def expected(page: str, role: str) -> int:
    return next(allowed for end, allowed in PAGES.items() if page.endswith(end))[role]


@pytest.mark.slow
@pytest.mark.parametrize("role", SEEN)
def test_each_role_opens_exactly_the_pages_of_its_permissions(client, role):
    log_in(client, role)
    statuses, wanted = {}, {}
    for name in ADMINS:
        row = ROWS[name]()
        for page, full in addresses_of(name, row).items():
            answer = client.get(full)
            statuses[page] = answer.status_code
            assert broken(answer.text) == [], page
            wanted[page] = expected(page, role)
    if role == "superuser":
        wanted["pgonly_django_cacheentry_clear"] = 404  # no cache of the tests is in that table
    assert statuses == wanted
    assert client.get(HOME).status_code == (404 if role == "nobody" else 200)


def test_who_may_not_see_a_row_does_not_delete_it(client):
    user = log_in(client, "nobody")
    user.user_permissions.set(Permission.objects.filter(codename__startswith="delete_"))
    for name in OF_ROWS:
        row = ROWS[name]()
        address = f"{HOME}{name}/{quote(row.pk)}/delete/"
        for answer in (client.get(address), client.post(address, {"post": "yes"})):
            assert answer.status_code == 403, name
        assert type(row).objects.filter(pk=row.pk).exists(), name


@pytest.mark.parametrize(
    ("role", "names"), [("superuser", OF_ROWS.keys() - EDITED_BY_HAND), ("reader", OF_ROWS.keys())]
)
def test_no_row_is_saved_from_a_page_that_only_shows_it(client, role, names):
    """Django would write all columns as they were read, over what a worker has written meanwhile."""
    log_in(client, role)
    for name in sorted(names):
        row = ROWS[name]()
        answer = client.post(f"{HOME}{name}/{quote(row.pk)}/change/", {"state": "succeeded", "ip": "1.1.1.1"})
        assert answer.status_code == 403, name


def test_who_is_not_staff_is_sent_to_log_in_by_every_page_and_button(client):
    client.force_login(User.objects.create_user("visitor", is_superuser=True))
    answers = {"": client.get(HOME)}
    for name in ADMINS:
        row = ROWS[name]()
        answers |= {page: client.get(full) for page, full in addresses_of(name, row).items()}
        answers |= {each: press(client, *each, row) for each in VERBS if each[0] == name}
    assert [
        each for each, answer in answers.items() if "/admin/login/" not in answer.get("Location", "")
    ] == []
    assert not LogEntry.objects.exists()


def test_every_verb_is_in_the_table():
    assert OF_VERBS.keys() == VERBS.keys()


def press(client, name: str, verb: str, row):
    return client.post(f"{HOME}{name}/{quote(row.pk)}/operate/{verb}/", {"usd": "9"})


def allows(role: str, name: str) -> bool:
    return role == "superuser" or (role == "operator" and name not in BY_DELETION)


@pytest.mark.slow
@pytest.mark.parametrize("role", SEEN)
def test_each_role_presses_exactly_the_buttons_of_its_permissions_and_each_leaves_its_entry_in_the_log(
    client, role
):
    user = log_in(client, role)
    for (name, verb), make in OF_VERBS.items():
        row = make()
        page = client.get(f"{HOME}{name}/{quote(row.pk)}/change/").text
        assert broken(page) == [], (name, verb)
        answer = press(client, name, verb, row)
        entries = [(entry.user, entry.object_id, entry.change_message) for entry in LogEntry.objects.all()]
        assert f'pgonly-button-{verb}"' in page or not allows(role, name), (name, verb)
        if allows(role, name):
            assert answer.status_code == 302, (name, verb)
            assert entries == [(user, str(row.pk), str(VERBS[name, verb].logged))], (name, verb)
        else:
            assert answer.status_code == 403, (name, verb)
            assert "pgonly-button-" not in page, (name, verb)
            assert entries == []
        LogEntry.objects.all().delete()
        type(row).objects.filter(pk=row.pk).delete()


def actions_of(page: str) -> list[str]:
    (select,) = re.findall(r'<select name="action".*?</select>', page, re.DOTALL) or [""]
    return re.findall(r'<option value="(\w+)"', select)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["operator", "reader"])
def test_a_list_offers_the_actions_of_its_readers_permissions_and_no_other_does_anything(client, role):
    log_in(client, role)
    for name, model_admin in OF_ROWS.items():
        row = ROWS[name]()
        offered = actions_of(client.get(f"{HOME}{name}/").text)
        if role == "reader" or not isinstance(model_admin, VerbAdmin) or name in BY_DELETION:
            assert offered == [], name
        for action in {getattr(each, "__name__", each) for each in model_admin.actions or ()} - {*offered}:
            client.post(f"{HOME}{name}/", {"action": action, "_selected_action": [row.pk], "post": "yes"})
        assert type(row).objects.filter(pk=row.pk).exists()
        assert not LogEntry.objects.exists(), name


def test_an_operator_sees_nothing_of_what_jobs_and_sessions_hold(client):
    log_in(client, "operator")
    held = {"args": [], "kwargs": {"city": "Atlantis"}, "result": "Atlantis", "task": "tests.jobs.add"}
    error = {"exception": "ValueError", "message": "Atlantis", "traceback": "Atlantis", "started_at": NOW}
    done = make_job(State.FAILED, errors=[{**error, "finished_at": NOW}], finished_at=timezone.now(), **held)
    ready = make_job(State.READY, **held)
    session = Session.objects.filter(pk=make_session().pk)
    session.update(data={"city": '"Atlantis"'})
    addresses = [
        "job/", f"job/{done.pk}/change/", f"job/{done.pk}/again/", f"job/{ready.pk}/edit/", f"job/{ready.pk}/history/",
        "session/", f"session/{session.get().pk}/change/", "",
    ]  # fmt: skip
    assert [address for address in addresses if "Atlantis" in client.get(HOME + address).text] == []
    assert client.get(f"{HOME}job/", {"q": "Atlantis"}).context["cl"].result_count == 0


# Every page works under `Content-Security-Policy: default-src 'self'`: nothing inline, and nothing of other sites.
FORBIDDEN = {
    "a style attribute": r"<[^>]*\sstyle\s*=",
    "an inline style": r"<style\b",
    "an inline script": r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")",
    "a handler": r"<[^>]*\son\w+\s*=",
    "a javascript address": r"=\s*[\"']?javascript:",
    "another site": r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//",
}


def broken(html: str) -> list[str]:
    return [name for name, pattern in FORBIDDEN.items() if re.search(pattern, html, re.IGNORECASE)]


def test_the_patterns_find_what_they_forbid():
    html = (
        '<p style="color:red" onclick="x()"></p><style></style><script>1</script><a href="javascript:1"></a>'
    )
    assert broken(html + '<script src="//cdn.example.org/x.js"></script>') == [*FORBIDDEN]
    assert broken('<script src="/static/x.js"></script><p title="on=1">style = 1</p>') == []


def test_no_page_that_asks_before_an_action_has_anything_inline(admin_client):
    for action in ("redrive_jobs", "delete_selected", "retry_jobs"):
        data = {"action": action, "_selected_action": [make_job(State.FAILED).pk]}
        assert broken(admin_client.post(f"{HOME}job/", data, follow=True).text) == [], action
