"""Papers to screen, and a model that answers."""

from example_project.screening.models import Paper
from pgonly_django.testing import drain
from tests.docs.assumed import project_with_papers

__all__ = ["Paper"]  # which the page uses
project = project_with_papers(2, pk=42)
verdicts = []


def ask_the_model(abstract):
    return f"Yes: {abstract}"


def save_verdict(paper, answer):
    verdicts.append((paper.position, answer))


def after(page):
    drain()
    assert verdicts == [(1, "Yes: Abstract 1"), (2, "Yes: Abstract 2")]
