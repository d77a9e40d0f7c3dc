"""The papers of a project, and a site to crawl."""

from example_project.screening.models import Paper
from pgonly_django.models import Job
from pgonly_django.testing import drain

__all__ = ["Paper"]  # which the page uses
pks = [1, 2]
visited = []


def ask_the_model(abstract):
    return abstract


def save_verdict(paper, answer):
    """There are no papers."""


def visit(state):
    visited.append(state["next"])
    return {"next": None if len(visited) > 2 else "next page"}


def after(page):
    assert Job.objects.filter(task=page.screen_project.module_path, queue="ai").count() >= 4
    crawl = page.crawl.enqueue("a page")
    drain()
    assert crawl.job.checkpoint.value == {"next": None}
    assert visited == ["a page", "next page", "next page"]
