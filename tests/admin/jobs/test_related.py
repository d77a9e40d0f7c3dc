"""What enqueued a job, and what it has enqueued: on its page, and in the list."""

from __future__ import annotations

import re
from html import unescape
from uuid import uuid4

import pytest

from pgonly_django.admin.jobs.related import SHOWN
from pgonly_django.models import Job, JobBatch, State
from tests.admin.conftest import make_job
from tests.queue.rows import make_gathering
from tests.scheduling.rows import make as make_schedule

pytestmark = pytest.mark.django_db
LIST = "/admin/pgonly_django/job/"


@pytest.fixture
def related(page):
    """The HTML of that part of a job's page; "" where there is none."""

    def part(job):
        return "".join(re.findall(r'<section [^>]*data-live="related".*?</section>', page(job), re.DOTALL))

    return part


def words(html):
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_a_job_without_kin_has_no_such_part(related):
    make_job(enqueued_by=f"job:{uuid4()}")
    assert related(make_job()) == ""


def test_a_job_links_to_the_one_that_enqueued_it_and_back(related):
    parent = make_job(State.SUCCEEDED, task="shop.tasks.import_all")
    child = make_job(State.FAILED, task="shop.tasks.import_one", enqueued_by=f"job:{parent.pk}")
    assert words(related(child)) == "Related jobs Enqueued by Succeeded import_all"
    assert f'href="{LIST}{parent.pk}/change/"' in related(child)
    assert words(related(parent)) == "Related jobs Enqueued 1 Failed import_one"
    assert f'href="{LIST}{child.pk}/change/"' in related(parent)


def test_of_many_the_first_are_shown_and_a_link_leads_to_all(related, admin_client):
    parent = make_job()
    children = [make_job(task=f"shop.task_{n}", enqueued_by=f"job:{parent.pk}") for n in range(SHOWN + 2)]
    html = related(parent)
    assert [f"shop.task_{n} {child.pk}" in html for n, child in enumerate(children)] == [True] * SHOWN + [
        False
    ] * 2
    (address,) = re.findall(rf'href="({LIST}\?[^"]+)">All {SHOWN + 2}<', html)
    response = admin_client.get(unescape(address))
    assert {row.pk for row in response.context["cl"].result_list} == {child.pk for child in children}
    assert f"Jobs: enqueued by job {parent.pk}" in response.text


def test_a_job_that_was_run_again_links_to_its_copy(related):
    job = make_job(State.FAILED)
    copy = make_job(enqueued_by=f"again:{job.pk}")
    assert words(related(job)) == "Related jobs Run again as 1 Ready add"
    assert words(related(copy)) == "Related jobs Run again from Failed add"


def test_an_origin_that_was_deleted_is_named_by_its_id(related):
    gone = uuid4()
    html = related(make_job(enqueued_by=f"job:{gone}"))
    assert words(html) == f"Related jobs Enqueued by a job that is not in this database any more: {gone}"
    assert "href" not in html


def test_a_job_of_a_schedule_links_to_it_while_it_is_there(related):
    schedule = make_schedule("nightly <b>")
    job = make_job(enqueued_by="schedule:nightly <b>")
    assert words(related(job)) == "Related jobs Enqueued by schedule nightly <b>"
    assert "/admin/pgonly_django/schedule/nightly" in related(job)
    schedule.delete()
    assert words(related(job)) == "Related jobs Enqueued by schedule nightly <b>"
    assert "href" not in related(job)


@pytest.mark.parametrize("origin", ["job:nonsense", "job:", "other:thing", "<script>"])
def test_what_no_code_of_ours_has_written_breaks_no_page(related, admin_client, origin):
    assert "<script>" not in related(make_job(enqueued_by=origin))
    assert admin_client.get(LIST, {"enqueued_by": origin}).context["cl"].result_count == 1


def test_who_may_not_view_schedules_gets_no_link_to_one(client, person):
    make_schedule("nightly")
    job = make_job(enqueued_by="schedule:nightly")
    person("view_job")
    text = client.get(f"{LIST}{job.pk}/change/").text
    assert "schedule nightly" in text
    assert "/schedule/nightly" not in text


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (State.READY, "shop.tasks.send is enqueued when it succeeds"),
        (State.SUCCEEDED, "shop.tasks.send was enqueued"),
        (State.FAILED, "shop.tasks.send was not enqueued: its chain ended here"),
        (State.CANCELLED, "shop.tasks.send was not enqueued: its chain ended here"),
    ],
)
def test_a_job_says_what_becomes_of_the_one_that_follows_it(page, state, says):
    job = make_job(state, then_job={"task": "shop.tasks.send", "args": ["secret"]})
    text = words(page(job))
    assert f"Then {says}" in text
    assert "secret" not in text


def test_a_job_that_gathers_shows_how_far_its_parts_are_and_leads_to_them(page, admin_client):
    batch = make_gathering(succeeded=1_203, failed=1, ready=1_796)
    html = page(batch.parent)
    assert '<progress class="pgonly-progress" value="1204" max="3000">40%</progress>' in html
    assert "40 % papers: 1,204 of 3,000 ended, 1 failed" in words(html)
    assert f'href="/admin/pgonly_django/jobbatch/{batch.pk}/change/">papers' in html
    address = f"{LIST}?batch_id={batch.pk}"
    response = admin_client.get(f"{address}&state__exact=failed")
    assert len(response.context["cl"].result_list) == 1
    assert f"Failed jobs: of batch {batch.pk}" in response.text
    (cell,) = re.findall(
        r"field-progress_cell[^>]*>(.+?)</td>", admin_client.get(f"{LIST}?state__exact=waits-jobs").text
    )
    assert "40%" in words(cell)
    assert "1,204 of 3,000 ended, 1 failed" in cell


def test_a_callback_and_a_member_say_how_far_their_batch_is(related):
    batch = make_gathering(succeeded=2, cancelled=1)
    told, link = ": 3 of 3 ended, 1 cancelled", f'href="{LIST}?batch_id={batch.pk}" title="{batch.pk}"'
    its_page = f'href="/admin/pgonly_django/jobbatch/{batch.pk}/change/" title="{batch.pk}"'
    called = related(make_job(enqueued_by=f"batch:{batch.pk}"))
    assert words(called) == f"Related jobs Enqueued by 100% batch {batch.pk}{told}"
    member = related(Job.objects.filter(batch_id=batch.pk).first())
    assert words(member) == f"Related jobs Member of 100% papers{told}"
    assert link in called
    assert its_page in member
    JobBatch.objects.update(parent=None)
    Job.objects.filter(pk=batch.parent_id).delete()
    JobBatch.objects.all().delete()
    assert link in related(Job.objects.filter(batch_id=batch.pk).first()), "the row may be pruned"
