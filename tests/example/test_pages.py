from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from example_project.screening import views
from example_project.screening.models import Paper, Project, ReviewerCall, Verdict
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.example.conftest import CSV, opinions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("site")]


@pytest.fixture
def disputed(project):
    """The project with its second paper disputed, the first agreed on."""
    one, two, _ = Paper.objects.of(project)
    Verdict.objects.record(one, opinions("include", "include"))
    Verdict.objects.record(two, opinions("include", "exclude"))
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


def test_start_cancel_and_resume_are_buttons(client, transactional_db, project):
    page = f"/projects/{project.pk}/"
    assert _buttons(client, page) == {"start", "split"}
    client.post(f"{page}start/")
    assert Job.objects.get().state == "ready"
    assert _buttons(client, page) == {"cancel"}
    client.post(f"{page}cancel/")
    assert Job.objects.get().state == "cancelled"
    assert _buttons(client, page) == {"resume"}
    client.post(f"{page}resume/")
    assert Job.objects.get().state == "ready"


def test_the_polled_json_is_the_status_of_the_screening(client, disputed):
    now = client.get(f"/projects/{disputed.pk}/progress.json").json()
    assert (now["state"], now["done"], now["total"], now["percent"]) == ("new", 2, 3, 66)
    assert (now["facts"]["included"], now["facts"]["disputed"], now["facts"]["waiting"]) == (1, 1, 1)


def test_the_page_leads_to_the_questions_that_it_does_not_show(client, disputed, monkeypatch):
    page, more = f"/projects/{disputed.pk}/", '<a href="?show=disputed#papers">1 more</a>'
    assert more not in client.get(page).text
    monkeypatch.setattr(views, "QUESTIONS_SHOWN", 0)
    assert more in client.get(page).text


def test_the_time_is_told_in_whole_seconds(client, disputed):
    began, paper = timezone.now(), disputed.papers.first()
    call = ReviewerCall.objects.create(paper=paper, reviewer="points")
    ReviewerCall.objects.filter(pk=call.pk).update(
        started_at=began, finished_at=began + timedelta(seconds=2.2)
    )
    page = f"/projects/{disputed.pk}/"
    assert '<span data-fact="seconds">2</span> s' in client.get(page).text
    assert client.get(f"{page}progress.json").json()["facts"]["seconds"] == 2


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


def test_the_page_shows_the_report_that_the_job_emits(client, transactional_db, project):
    client.post(f"/projects/{project.pk}/start/")
    assert "Waiting" in client.get(f"/projects/{project.pk}/").text
    drain()
    page = client.get(f"/projects/{project.pk}/").text
    assert "points and pico have judged 3 papers. " in page
