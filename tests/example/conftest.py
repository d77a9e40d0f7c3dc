from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from django.db import connections

from example_project.screening.importers import new_project, read_papers
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions

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


class Api:
    """An OpenAI-compatible server. It answers with the entries of `answers`: (status, headers, content)."""

    def __init__(self):
        self.answers, self.requests, self.usage = [], [], None
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                api.requests.append((self.path, self.headers["Authorization"], json.loads(body)))
                status, headers, content = api.answers.pop(0)
                said = {"choices": [{"message": {"content": content}}]}
                said |= {"usage": api.usage} if api.usage else {}
                answer = json.dumps(said) if status == 200 else content
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, content, status=200, **headers):
        self.answers.append((status, headers, content))


@pytest.fixture
def api(settings):
    api = Api()
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    settings.CHAT_BASE_URL, settings.CHAT_API_KEY, settings.CHAT_PATIENCE_SECONDS = api.url, "secret", 3
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


@pytest.fixture
def work(transactional_db):
    """Run a real worker in this process until no job is ready."""
    yield lambda: WorkerLoop(WorkerOptions(burst=True, threads=2, grace_seconds=1.0)).run()
    connections.close_all()
