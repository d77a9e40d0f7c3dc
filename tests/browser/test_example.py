"""The example's own pages: a screening that is watched, and the papers that a person decides."""

from __future__ import annotations

import signal

import pytest

from example_project.screening.demo import prepare
from example_project.screening.demo.seeding import projects
from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, Project, Verdict
from example_project.screening.models.paper import Outcome
from pgonly_django.models import Job, State
from tests.browser.pages import APP
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.mark.process
def test_a_screening_is_seen_to_lose_its_worker_and_to_go_on_and_its_report_is_there_at_the_end(
    person, workers, expect
):
    project = prepare.load(prepare.SAMPLE)
    first = workers.start("screening", "first")
    visitor = person(None)
    page = visitor.goes_to(f"/projects/{project.pk}/")
    visitor.presses("Start screening")
    wait_for(lambda: Verdict.objects.of(project).count() >= 16, what="the first papers")
    first.send_signal(signal.SIGKILL)
    label = page.locator("#job [data-part=label]")
    expect(label).to_contain_text("Interrupted", timeout=20_000)
    workers.start("screening", "second")
    expect(page.get_by_role("heading", name="Result")).to_be_visible(timeout=45_000)
    expect(label).to_have_text("Done", timeout=15_000)
    assert len(page.locator("#job [data-part=output]").inner_text()) > 40
    assert Verdict.objects.of(project).count() == 80


def test_a_job_for_each_paper_waits_for_the_buttons_of_the_page_and_hears_them(person, workers, expect):
    papers = read_papers(prepare.SAMPLE.read_bytes())[6:13]  # two of them are disputed
    project = new_project("Seven papers", "Is it a trial?", "Trials.", papers)
    visitor = person(None)
    page = visitor.goes_to(f"/projects/{project.pk}/")
    questions = page.locator("#questions form")
    expect(page.locator("#questions")).to_be_hidden()
    visitor.presses("Start a job for each paper")
    workers.start("screening")
    expect(page.locator("#state")).to_have_text("Waiting for your decision", timeout=45_000)
    expect(questions).to_have_count(2, timeout=15_000)
    for left, answer in ((1, "Include"), (0, "Exclude")):
        questions.first.get_by_role("button", name=answer).click()
        expect(questions).to_have_count(left)
    expect(page.locator("#state")).to_have_text("Finished", timeout=20_000)
    assert (
        project.papers.filter(decided="include").count()
        == project.papers.filter(decided="exclude").count()
        == 1
    )
    assert {job.state for job in Job.objects.all()} == {State.SUCCEEDED}
    assert Job.objects.count() == 8


def test_a_user_finds_the_devices_in_the_layout_of_the_site_and_signs_one_out(person, expect):
    other, user = person("reader"), person("reader")
    other.goes_to(APP)
    page = user.goes_to("/")
    page.get_by_role("link", name="Your devices").click()
    expect(page.get_by_role("link", name="New project")).to_be_visible()
    devices = page.locator(".devices").get_by_role("listitem")
    expect(devices).to_have_count(2)
    expect(devices.first).to_contain_text("This device")
    devices.last.get_by_role("button").click()
    expect(page.get_by_text("That device is signed out.")).to_be_visible()
    other.page.goto(other.site.url + APP)
    assert "/login/" in other.page.url


def test_disputed_papers_are_decided_by_keys_and_the_last_decision_is_undone(person, expect):
    projects.write()
    project = Project.objects.get()
    disputed = list(Paper.objects.of(project).of_outcome(Outcome.DISPUTED))
    page = person(None).goes_to(f"/projects/{project.pk}/papers/{disputed[0].position}/")
    expect(page.get_by_text(f"1 of {len(disputed)} disputed")).to_be_visible()
    page.keyboard.press("i")
    expect(page.get_by_role("heading", level=1)).to_have_text(disputed[1].title)
    assert Paper.objects.get(pk=disputed[0].pk).decided == "include"
    page.keyboard.press("u")
    wait_for(lambda: Paper.objects.get(pk=disputed[0].pk).decided == "", what="the decision to be undone")
    expect(page.get_by_text(f"of {len(disputed)} disputed")).to_be_visible()
