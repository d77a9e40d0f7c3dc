from __future__ import annotations

from pgonly_django import task
from tests.neighbours.library.models import Paper


@task
def write(title):
    return Paper.objects.create(title=title).pk
