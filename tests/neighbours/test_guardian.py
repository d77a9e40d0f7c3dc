"""django-guardian: permissions for single jobs, and our admin beside its backend."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from guardian.shortcuts import assign_perm, get_objects_for_user, remove_perm

from pgonly_django.models import Job
from tests.jobs import add

pytestmark = pytest.mark.slow


def test_a_user_may_be_given_single_jobs(transactional_db):
    ann = User.objects.create_user("ann")
    mine, other = (Job.objects.get(pk=add.enqueue(n).id) for n in range(2))
    assign_perm("view_job", ann, mine)
    assert (ann.has_perm("pgonly_django.view_job", mine), ann.has_perm("pgonly_django.view_job", other)) == (
        True,
        False,
    )
    assert [job.pk for job in get_objects_for_user(ann, "pgonly_django.view_job")] == [mine.pk]
    remove_perm("view_job", ann, mine)
    assert not get_objects_for_user(ann, "pgonly_django.view_job").exists()


def test_such_a_permission_opens_no_list_of_all_jobs(transactional_db):
    ann = User.objects.create_user("ann", is_staff=True)
    job = Job.objects.get(pk=add.enqueue(1).id)
    assign_perm("view_job", ann, job)
    browser = Client()
    browser.force_login(ann)
    assert browser.get("/admin/pgonly_django/job/").status_code == 403
