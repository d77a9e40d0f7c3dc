"""The screening with a job for each paper, which asks a person where the two reviewers disagree."""

from __future__ import annotations

import csv
from decimal import Decimal

import pytest
from django.urls import reverse

from example_project.screening.deciding import decide
from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, Project, ReviewerCall
from example_project.screening.models.paper import Outcome
from example_project.screening.status import held_because, history, status
from example_project.screening.summary import digest
from example_project.screening.tasks import screen_paper, start_screening
from pgonly_django.models import Job, State
from pgonly_django.testing import assert_resumable, assert_waiting_for, drain
from tests.docs.assumed import IMMEDIATE
from tests.example.conftest import CSV, PUBMED, VERDICT

pytestmark = pytest.mark.slow

# The two reviewers disagree on it: it has no people for "pico", and a design for "points".
DISPUTED = "4,Iron for schoolgirls,Schoolgirls were randomly given iron or placebo. Haemoglobin rose.,1\n"
RECORDS = 60  # of PubMed: enough for several disputes


@pytest.fixture
def disputed(project):
    """The project with a fourth paper, which the two will dispute."""
    project.delete()
    return new_project("Four papers", "Is it a trial?", "Trials.", read_papers((CSV + DISPUTED).encode()))


def screen(project):
    start_screening(project, by_paper=True)
    drain()


def disputes(project):
    return list(Paper.objects.of(project).of_outcome(Outcome.DISPUTED).select_related("project"))


@pytest.mark.skipif(not PUBMED.exists(), reason="the PubMed file is missing")
def test_records_of_pubmed_are_judged_as_by_one_job_and_each_dispute_waits_for_a_person(db):
    with PUBMED.open(newline="") as file:
        rows = list(csv.reader(file))[: RECORDS + 1]
    lines = "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    whole, split = (
        new_project(name, "Is it a trial?", "Trials.", read_papers(lines.encode())) for name in "ab"
    )
    start_screening(whole)
    screen(split)
    assert digest(split) == digest(whole)
    asked = disputes(split)
    assert [paper.position for paper in asked] == [paper.position for paper in disputes(whole)]
    assert len(asked) > 2
    for paper in asked:
        (wait,) = assert_waiting_for(paper.question_key, count=1)
        assert paper.title in wait.question
    assert split.members.count() == RECORDS
    assert (status(split).state, status(split).done) == ("asking", RECORDS)
    for paper in asked:
        decide(paper, "include" if paper.label else "exclude", "ann")
    drain()
    assert status(split).state == "succeeded"
    assert split.job.result == status(split).outcomes
    assert status(split).outcomes[Outcome.DISPUTED] == 0


def test_an_answer_in_the_admin_is_the_decision(admin_client, site, disputed):
    screen(disputed)
    (paper,) = disputes(disputed)
    (wait,) = assert_waiting_for(paper.question_key)
    answer = reverse("admin:pgonly_django_job_answer", args=[wait.job_id])
    admin_client.post(f"{answer}?key={wait.key}", {"answer": "exclude"})
    drain()
    paper.refresh_from_db()
    assert (paper.decided, paper.decided_by) == ("exclude", "a person")
    assert status(disputed).state == "succeeded"


def test_an_answer_on_the_page_of_the_project_is_the_decision(client, site, disputed):
    screen(disputed)
    (paper,) = disputes(disputed)
    page = f"/projects/{disputed.pk}/"
    assert f'aria-label="Include {paper.title}"' in client.get(page).text
    assert "Waiting for your decision" in client.get(page).text
    address = f"{page}papers/{paper.position}/"
    answer = client.post(address, {"decision": "include", "from_project": ""})
    assert answer.headers["Location"] == page
    assert f'aria-label="Include {paper.title}"' not in client.get(page).text
    drain()
    assert status(disputed).state == "succeeded"
    assert Job.objects.get(pk=disputed.job_id).result[Outcome.INCLUDED] == 2


def test_a_decision_that_comes_before_the_question_is_heard(disputed):
    start_screening(disputed, by_paper=True)
    decide(Paper.objects.select_related("project").get(position=4), "include", "ann")
    Paper.objects.filter(position=4).update(decided="")
    drain()
    assert status(disputed).state == "succeeded"
    assert Paper.objects.get(position=4).decided == "include"


def test_a_job_of_a_paper_survives_a_kill_at_each_place(transactional_db, disputed):
    paper = Paper.objects.select_related("project").get(position=4)
    report = assert_resumable(
        screen_paper,
        paper.pk,
        events={paper.question_key: "include"},
        ignore=[ReviewerCall, "screening.Paper.decided_at"],
    )
    assert report.calls == {f"step '{paper.pk}:points'": 1, f"step '{paper.pk}:pico'": 1}


def test_after_one_job_for_all_only_the_disputes_get_jobs_and_no_call_is_made(disputed):
    start_screening(disputed)
    drain()
    start_screening(disputed)  # does nothing
    calls = ReviewerCall.objects.count()
    screen(disputed)
    assert disputed.members.count() == 1
    assert ReviewerCall.objects.count() == calls == 8
    assert status(disputed).state == "asking"


def test_a_decision_that_is_taken_back_is_asked_for_anew_by_another_screening(disputed):
    screen(disputed)
    (paper,) = disputes(disputed)
    decide(paper, "include", "ann")
    drain()
    decide(paper, "", "ann")
    assert status(disputed).state == "succeeded"
    screen(disputed)
    assert status(disputed).state == "asking"
    (again,) = disputes(disputed)
    assert again.question_key != paper.question_key


def test_cancel_takes_the_jobs_of_the_papers_along_and_resume_brings_them_back(disputed):
    screen(disputed)
    disputed.cancel()
    drain()
    assert status(disputed).state == "cancelled"
    assert disputed.members.filter(state=State.CANCELLED).count() == 1
    disputed.resume()
    drain()
    assert status(disputed).state == "asking"
    decide(*disputes(disputed), "exclude", "ann")
    drain()
    assert status(disputed).state == "succeeded"
    assert ReviewerCall.objects.count() == 8


def test_a_paper_that_failed_fails_the_whole_and_both_resume_without_paying_twice(project, api):
    Project.objects.update(reviewers=["points", "chat:m"])
    api.says("no credit left", 402)
    for _ in range(2):
        api.says(VERDICT.replace("include", "exclude"))
    screen(project)
    assert status(project).state == "failed"
    assert "no credit left" in history(project)[-1].text
    api.says(VERDICT)
    project.resume()
    drain()
    assert status(project).state == "succeeded"
    calls = ReviewerCall.objects.filter(outcome="answered").values_list("paper__position", "reviewer")
    assert len(calls) == len(set(calls)) == 6


def test_papers_are_held_at_the_budget_and_go_on_when_it_is_raised(disputed):
    Project.objects.update(budget_usd=Decimal("0.004"))
    disputed.refresh_from_db()
    screen(disputed)
    assert status(disputed).state == "unpaid"
    assert "does not fit" in held_because(disputed)
    disputed.raise_budget(Decimal(1))
    drain()
    assert status(disputed).state == "asking"


def test_without_a_worker_only_one_job_for_all_is_offered(project, settings):
    assert status(project).buttons == ("start", "split")
    settings.TASKS = IMMEDIATE
    assert status(project).buttons == ("start",)
