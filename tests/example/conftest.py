from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.db import connections

from example_project.screening.importers import new_project, read_papers
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests.http_receiver import Receiver, receiver

ROOT = Path(__file__).resolve().parents[2]
# 1,000 real records with labels. They are not in the repository; tests that need them are skipped without them.
PUBMED = Path(os.environ.get("PUBMED_CSV", ROOT.parent / "shared/data/pubmed_trials_1000.csv"))

CSV = (
    "record_id,title,abstract,label_included\n"
    "1,Aspirin against placebo,Sixty patients were randomly given aspirin 300 mg or placebo. Pain fell.,1\n"
    "2,Memory of rats,Rats learned a maze. The rats forgot it.,0\n"
    "3,A survey of dentists,A questionnaire was sent to dentists.,0\n"
)

# What a model answers.
VERDICT = '{"decision": "include", "reason": "Patients were randomised."}'


def opinions(first, second):
    """Of both reviewers, as they are stored."""
    decisions = {"points": first, "pico": second}
    return {name: {"decision": each, "reason": f"by {name}"} for name, each in decisions.items()}


@pytest.fixture
def site(settings):
    settings.ROOT_URLCONF = "example_project.urls"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "example_project.security.content_security_policy"]


@pytest.fixture(autouse=True)
def limiters(settings):
    """One for each reviewer that the tests ask."""
    limits = {"concurrent": 5, "requests_per_minute": None, "tokens_per_minute": None}
    names = ("points", "pico", "chat:m", "chat:small-model")
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": dict.fromkeys(names, limits)}


@pytest.fixture
def project(db):
    return new_project("Three papers", "Is it a trial?", "Trials in people.", read_papers(CSV.encode()))


@dataclass
class Api(Receiver):
    """An OpenAI-compatible server, which answers with what it `says`, one after the other."""

    said: list[tuple[int, dict[str, str], str]] = field(default_factory=list)
    usage: dict[str, int] | None = None

    def says(self, content, status=200, **headers):
        self.said.append((status, headers, content))

    @property
    def requests(self):
        """The path, the key and the JSON of each."""
        return [(each.target, each.headers["Authorization"], json.loads(each.body)) for each in self.asked]

    def answer(self, asked):
        status, headers, content = self.said.pop(0)
        if status == 200:
            usage = {"usage": self.usage} if self.usage else {}
            content = json.dumps({"choices": [{"message": {"content": content}}], **usage})
        return status, headers, content.encode()


@pytest.fixture
def api(settings):
    with receiver(Api) as api:
        settings.CHAT_BASE_URL = f"http://127.0.0.1:{api.port}/v1"
        settings.CHAT_API_KEY, settings.CHAT_PATIENCE_SECONDS = "secret", 3
        yield api


@pytest.fixture
def work(transactional_db):
    """Run a real worker in this process until no job is ready."""
    yield lambda: WorkerLoop(WorkerOptions(burst=True, threads=2, grace_seconds=1.0)).run()
    connections.close_all()
