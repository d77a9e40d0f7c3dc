from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.utils import timezone
from model_bakery import baker

from pgonly_django.models import CacheEntry, Job, Session, State
from pgonly_django.sessions import SessionStore

LIST = "/admin/pgonly_django/job/"
# Parts of pages that take longer are left out. A busy machine takes longer for the few rows of a test.
SHORT_LIMITS = (
    "pgonly_django.admin.jobs.cells.COSTS_LIMIT",
    "pgonly_django.admin.jobs.change_list.COUNTS_LIMIT",
    "pgonly_django.admin.jobs.change_list.SEARCH_COUNTS_LIMIT",
    "pgonly_django.admin.jobs.change_list.JobChangeList.search_limit",
    "pgonly_django.admin.jobs.waits.TIME_LIMIT",
    "pgonly_django.admin.overview.overview.TIME_LIMIT",
    "pgonly_django.admin.overview.panels.TIME_LIMIT",
    "pgonly_django.admin.jobs.change_list.JobChangeList.quick_limit",
)


@pytest.fixture(autouse=True)
def patient_pages(monkeypatch):
    """A test of a limit sets its own."""
    for limit in SHORT_LIMITS:
        monkeypatch.setattr(limit, timedelta(seconds=20))


def page_of(job):
    return f"{LIST}{job.pk}/change/"


def said(response):
    """The messages of the page."""
    return [str(message) for message in response.context["messages"]]


def refusals(form):
    """Why the form was refused: in our words, or with the code of what Django says itself."""
    errors = [error for each in form.errors.as_data().values() for error in each]
    return [error.code or text for error in errors for text in error]


def act(client, action, rows, page=LIST, **more):
    """Choose the action of a list for these rows."""
    data = {"action": action, "index": "0", "_selected_action": [row.pk for row in rows], **more}
    return client.post(page, data, follow=True)


def make_job(state=State.READY, **fields):
    """A job in this state, with what its CHECK constraints ask for."""
    now = timezone.now()
    defaults = {"task": "tests.jobs.add", "state": state}
    if state == State.RUNNING:
        defaults |= {
            "worker_id": uuid4(),
            "lease_expires_at": now + timedelta(minutes=1),
            "attempted_at": now,
        }
    if state == State.HELD:
        defaults |= {"held_by": "a person"}
    if state == State.SCHEDULED:
        defaults |= {"run_at": now + timedelta(hours=1)}
    return Job.objects.create(**(defaults | fields))


def make_entry(model=CacheEntry, **columns):
    return model.objects.create(key=f"answers:1:{uuid4()}", **({"value": b"[1]", "codec": 1} | columns))


def make_session(**columns):
    session = SessionStore()
    session["_auth_user_id"] = str(baker.make(User).pk)
    session.save()
    Session.objects.for_key(session.session_key).update(**columns)
    return Session.objects.for_key(session.session_key).get()


@pytest.fixture
def person(client, db):
    """Logs in a member of staff who has exactly these permissions of this app; returns the user."""

    def log_in(*codenames):
        user = User.objects.create_user(f"person {len(codenames)}", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="pgonly_django", codename__in=codenames)
        )
        client.force_login(user)
        return user

    return log_in


@pytest.fixture
def rows():
    from tests.admin.rows import rows_of_all_models

    return rows_of_all_models()
