from __future__ import annotations

import pytest

from example_project.screening.agreement import cohens_kappa, percent_agreement
from example_project.screening.models import Paper, ReviewerCall, Verdict
from example_project.screening.summary import digest, summarise
from tests.example.conftest import opinions

pytestmark = pytest.mark.slow


def test_kappa_is_agreement_beyond_chance():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.70, by chance 0.50.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert percent_agreement(pairs) == 70
    assert cohens_kappa(pairs) == pytest.approx(0.4)


def test_the_outcome_is_the_common_decision_or_else_a_persons(project):
    one, two, _three = Paper.objects.of(project)
    Verdict.objects.record(one, opinions("include", "include"))
    Verdict.objects.record(two, opinions("unsure", "unsure"))
    counts = {"waiting": 1, "included": 1, "excluded": 0, "disputed": 1}
    assert Paper.objects.of(project).count_by_outcome() == counts
    Paper.objects.filter(pk=two.pk).update(decided="exclude")
    assert Paper.objects.of(project).count_by_outcome() == counts | {"excluded": 1, "disputed": 0}


def test_recording_a_verdict_twice_keeps_one_row_and_the_digest(project):
    paper = Paper.objects.of(project)[0]
    Verdict.objects.record(paper, opinions("include", "exclude"))
    before = digest(project)
    Verdict.objects.record(paper, opinions("include", "exclude"))
    assert Verdict.objects.of(project).count() == 2
    assert digest(project) == before
    Verdict.objects.record(paper, opinions("include", "include"))
    assert digest(project) != before


def test_the_summary_counts_calls_by_their_rows_and_not_by_verdicts(project):
    for paper in Paper.objects.of(project):
        Verdict.objects.record(paper, opinions("include", "exclude" if paper.label is False else "include"))
    ReviewerCall.objects.create(paper=paper, reviewer="points")
    summary = summarise(project)
    assert (summary["papers"], summary["verdicts"], summary["reviewer_calls"]) == (3, 6, 1)
    assert summary["quality"]["points"] == {"precision": 0.333, "recall": 1.0}
    assert summary["quality"]["pico"] == {"precision": 1.0, "recall": 1.0}
    assert summary["agreement_percent"] == 33.3
