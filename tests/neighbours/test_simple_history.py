"""django-simple-history: what a job changes has its history."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job
from tests.neighbours.library.jobs import write
from tests.neighbours.library.models import Paper

pytestmark = pytest.mark.slow


def test_what_a_job_writes_has_a_history(work):
    result = write.enqueue("On rivers")
    work()
    result.refresh()
    (entry,) = Paper.history.all()
    assert (entry.title, entry.history_type, entry.history_user, entry.id) == (
        "On rivers",
        "+",
        None,
        result.return_value,
    )


@pytest.mark.parametrize("verb", ["cancel", "hold"])
def test_a_history_of_jobs_would_not_see_verbs_and_workers(verb, transactional_db):
    """Verbs are statements, which send no post_save: there is nothing to watch. Events say what happened."""
    from django.db.models.signals import post_save

    heard = []
    post_save.connect(listener := lambda **facts: heard.append(facts), sender=Job)
    result = write.enqueue("On rivers")
    getattr(result, verb)()
    post_save.disconnect(listener, sender=Job)
    assert heard == []
