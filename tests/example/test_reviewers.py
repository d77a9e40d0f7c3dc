from __future__ import annotations

import csv

import pytest
from django.core.exceptions import ImproperlyConfigured

from example_project.screening.agreement import precision_and_recall
from example_project.screening.reviewers import build_reviewer, pico, points
from tests.example.conftest import PUBMED, ROOT

pytestmark = pytest.mark.slow

SAMPLE = ROOT / "example_project/screening/data/sample.csv"
READERS = pytest.mark.parametrize("read", [points.read, pico.read])


@READERS
def test_an_offline_reviewer_decides_by_what_the_abstract_says(read):
    trial = "Sixty patients were randomly given 5 mg or placebo. Pain was reduced, compared with placebo."
    assert read(f"A study\n{trial}").decision == "include"
    assert (
        read("A study\nSixty rats and mice were given a drug. The rats slept, unlike the mice.").decision
        == "exclude"
    )


@READERS
@pytest.mark.skipif(not PUBMED.exists(), reason="the PubMed file is missing")
def test_an_offline_reviewer_is_good_on_abstracts_of_pubmed(read):
    rows = _rows(PUBMED)
    chosen = [read(_text(row)).decision == "include" for row in rows]
    precision, recall = precision_and_recall(chosen, [row["label_included"] == "1" for row in rows])
    assert precision > 0.75
    assert recall > 0.55


def test_an_unknown_reviewer_is_refused_with_the_known_names():
    with pytest.raises(ImproperlyConfigured, match="Known are: points, pico, chat:MODEL"):
        build_reviewer("dice")


def test_a_chat_reviewer_without_a_key_is_refused(settings):
    with pytest.raises(ImproperlyConfigured, match="CHAT_API_KEY"):
        build_reviewer("chat:some-model")


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _text(row):
    return f"{row['title']}\n{row['abstract']}"
