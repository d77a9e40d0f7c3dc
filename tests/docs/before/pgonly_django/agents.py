"""The papers of the example, and a provider that answers at once."""

import unittest

from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper
from pgonly_django.models import Job
from pgonly_django.testing import drain as drain_now
from tests.example.conftest import CSV

asked = []
totals = {}
told = []
imported = []
verdicts = {}


class Verdict:
    """As a model's manager: one row a paper, however often it is written."""

    class objects:  # noqa: N801 - as Django calls it
        @staticmethod
        def update_or_create(paper, defaults):
            verdicts[paper.pk] = defaults["answer"]


def call_the_provider(text, timeout):
    asked.append(text)
    return f"seen: {text[:3]}"


def build_report():
    return "a report"


def run_import():
    imported.append("once")


def after(page):
    project = new_project("Three papers", "Is it a trial?", "Trials in people.", read_papers(CSV.encode()))
    page.screen_project.enqueue(project.pk)
    drain_now()
    papers = Paper.objects.filter(project=project)
    assert set(verdicts) == {paper.pk for paper in papers}
    assert len(asked) == len(papers)
    assert page.report == "a report"
    assert page.cache.get("page:1") is None
    assert imported == ["once"]
    page.count(project.pk, [paper.pk for paper in papers])
    drain_now()
    assert totals == {project.pk: sum(len(paper.abstract.split()) for paper in papers)}
    assert told == [project.pk]
    (test,) = unittest.defaultTestLoader.loadTestsFromTestCase(page.ScreeningTests)
    test.test_a_project_is_screened()
    assert set(Job.objects.values_list("state", flat=True)) == {"succeeded"}
