from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from example_project.screening.models import Paper, Project, Verdict
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.example.conftest import CSV
from tests.queue.rows import make_running

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = "example_project.urls"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "example_project.security.content_security_policy"]


@pytest.fixture
def disputed(project):
    """The project with its second paper disputed, the first agreed on."""
    one, two, _ = Paper.objects.of(project)
    for paper, second in ((one, "include"), (two, "exclude")):
        decisions = {"points": "include", "pico": second}
        Verdict.objects.record(
            paper, {name: {"decision": d, "reason": f"by {name}"} for name, d in decisions.items()}
        )
    return project


def test_a_project_is_made_from_an_uploaded_file(client, db):
    file = SimpleUploadedFile("papers.csv", CSV.encode())
    answer = client.post("/projects/new/", {"name": "N", "question": "Q", "criteria": "C", "file": file})
    project = Project.objects.get()
    assert answer.headers["Location"] == f"/projects/{project.pk}/"
    assert project.papers.count() == 3


def test_a_file_that_cannot_be_read_says_why_and_makes_nothing(client, db):
    file = SimpleUploadedFile("papers.csv", b"title,notes\na,b\n")
    answer = client.post("/projects/new/", {"name": "N", "question": "Q", "criteria": "C", "file": file})
    assert "no column for the abstract" in answer.text
    assert not Project.objects.exists()


def test_the_labels_of_the_form_end_without_a_colon(client, db):
    labels = re.findall(r"<label[^>]*>(.*?)</label>", client.get("/projects/new/").text)
    assert labels == ["Name", "Question", "Criteria", "Budget in US dollars", "Papers"]


def test_start_cancel_and_resume_are_buttons(client, transactional_db, project):
    page = f"/projects/{project.pk}/"
    assert _buttons(client, page) == {"start"}
    client.post(f"{page}start/")
    assert Job.objects.get().state == "ready"
    assert _buttons(client, page) == {"cancel"}
    client.post(f"{page}cancel/")
    assert Job.objects.get().state == "cancelled"
    assert _buttons(client, page) == {"resume"}
    client.post(f"{page}resume/")
    assert Job.objects.get().state == "ready"


def test_a_button_needs_a_post_and_a_verb_that_exists(client, project):
    assert client.get(f"/projects/{project.pk}/start/").status_code == 405
    assert client.post(f"/projects/{project.pk}/delete/").status_code == 404


def test_the_polled_json_is_the_status_of_the_screening(client, disputed):
    now = client.get(f"/projects/{disputed.pk}/progress.json").json()
    assert (now["state"], now["done"], now["total"], now["percent"]) == ("new", 2, 3, 66)
    assert (now["facts"]["included"], now["facts"]["disputed"], now["facts"]["waiting"]) == (1, 1, 1)


def test_the_list_is_filtered_by_outcome(client, disputed):
    page = client.get(f"/projects/{disputed.pk}/?show=disputed").text
    assert "Memory of rats" in page
    assert "Aspirin against placebo" not in page


def test_a_person_decides_a_disputed_paper_and_undoes_it(client, disputed, admin_user):
    client.force_login(admin_user)
    page = f"/projects/{disputed.pk}/papers/2/"
    assert "by points" in client.get(page).text
    assert client.post(page, {"decision": "exclude"}).headers["Location"] == f"/projects/{disputed.pk}/"
    paper = Paper.objects.get(position=2)
    assert (paper.decided, paper.decided_by) == ("exclude", "admin")
    client.post(page, {"decision": ""})
    assert Paper.objects.of(disputed).count_by_outcome()["disputed"] == 1


def test_a_decision_is_include_exclude_or_nothing_else(client, disputed):
    assert client.post(f"/projects/{disputed.pk}/papers/2/", {"decision": "burn"}).status_code == 400
    assert not Paper.objects.exclude(decided="").exists()


def test_markup_in_a_title_is_escaped(client, project):
    Paper.objects.update(title="<script>alert(1)</script>", abstract="<img src=x>")
    for page in (f"/projects/{project.pk}/", f"/projects/{project.pk}/papers/1/"):
        assert "<script>alert" not in client.get(page).text
        assert "<img" not in client.get(page).text


def test_every_page_works_under_a_strict_content_security_policy(client, disputed):
    for page in ("/", "/projects/new/", f"/projects/{disputed.pk}/", f"/projects/{disputed.pk}/papers/2/"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", answer.text)


def _buttons(client, page):
    forms = re.findall(r'data-verb="(\w+)"( hidden)?', client.get(page).text)
    return {verb for verb, hidden in forms if not hidden}


def test_a_paper_says_which_of_the_disputed_it_is_and_leads_to_the_next(client, disputed):
    one, _, three = Paper.objects.of(disputed)
    for paper in (one, three):
        Verdict.objects.filter(paper=paper).delete()
        decisions = {"points": "include", "pico": "exclude"}
        Verdict.objects.record(paper, {n: {"decision": d, "reason": ""} for n, d in decisions.items()})
    page = client.get(f"/projects/{disputed.pk}/papers/2/").text
    assert "2 of 3 disputed" in page
    for key, position in (("ArrowLeft", 1), ("ArrowRight", 3)):
        assert f'data-key="{key}" href="/projects/{disputed.pk}/papers/{position}/"' in page
    for key in ("i", "e"):
        assert f'data-key="{key}"' in page


def test_the_last_decision_is_undone_from_any_paper(client, disputed):
    page = f"/projects/{disputed.pk}/papers/2/"
    assert 'data-key="u"' not in client.get(page).text
    client.post(page, {"decision": "include"})
    assert 'data-key="u"' in client.get(f"/projects/{disputed.pk}/papers/1/").text
    answer = client.post(f"/projects/{disputed.pk}/undo/")
    assert answer["Location"] == page
    assert Paper.objects.of(disputed)[1].decided == ""
    assert client.post(f"/projects/{disputed.pk}/undo/")["Location"] == f"/projects/{disputed.pk}/"


def test_projects_of_the_same_name_are_told_apart_by_their_times(client, project):
    assert project.title == project.name
    namesake = Project.objects.create(name=project.name, question="Q", criteria="C")
    for each in (project, namesake):
        assert each.title.startswith(f"{each.name}, ")
    page = client.get("/").text
    assert project.title in page
    assert namesake.title in page
    assert project.title in client.get(f"/projects/{project.pk}/").text


def test_the_page_shows_the_report_that_the_job_emits(client, transactional_db, project):
    client.post(f"/projects/{project.pk}/start/")
    assert "Waiting" in client.get(f"/projects/{project.pk}/").text
    drain()
    page = client.get(f"/projects/{project.pk}/").text
    assert "points and pico have judged 3 papers. " in page


def test_a_silent_worker_is_said_before_its_lease_is_over(client, project):
    lease = timedelta(seconds=60)
    job = make_running(lease_expires_at=timezone.now() + lease / 2)
    Project.objects.filter(pk=project.pk).update(job_id=job.pk)
    page = client.get(f"/projects/{project.pk}/").text
    assert "Worker silent, waiting for takeover" in page
