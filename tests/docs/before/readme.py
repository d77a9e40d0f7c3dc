"""Papers to screen, and a model that answers."""

from example_project.screening.models import Paper, Project
from pgonly_django.testing import drain

project = Project.objects.create(pk=42, name="Cats")
for position in (1, 2):
    Paper.objects.create(project=project, position=position, title=f"Paper {position}", abstract="Cats.")
verdicts = []


def ask_the_model(abstract):
    return f"Yes: {abstract}"


def save_verdict(paper, answer):
    verdicts.append((paper.position, answer))


def after(page):
    drain()
    assert verdicts == [(1, "Yes: Cats."), (2, "Yes: Cats.")]
