"""A view that uses the cache, under real servers whose database stops, or freezes, and comes back."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

import httpx
import psycopg
import pytest

from benchmarks.servers import free_port
from tests.cache.server_settings import CACHES
from tests.in_memory import new_server
from tests.outages import frozen, stopped
from tests.serving import AppServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

VIEWS = {"gunicorn": "sync", "uvicorn": "async"}
WORKERS = {"gunicorn": 2, "uvicorn": 1}
BROWSERS_A_WORKER = 3
TIMEOUT_SECONDS = CACHES["default"]["OPTIONS"]["TIMEOUT_SECONDS"]
TWICE_SECONDS = 2 * TIMEOUT_SECONDS  # what a view would take whose second call waits too
AT_ONCE_SECONDS = TIMEOUT_SECONDS / 2  # less than a call that waits for its timeout
OUTAGE_SECONDS = 1.5  # long enough for the database to be tried again in between


@pytest.fixture(scope="module")
def database():
    with new_server(free_port()) as server:
        yield server


@pytest.fixture(scope="module", params=VIEWS)
def app(request, database):
    view = VIEWS[request.param]
    server = AppServer(request.param, database.url(), "tests.cache.server_settings", f"/{view}/probe/")
    server.migrate()
    server.start()
    yield server
    server.kill()


class Answer(NamedTuple):
    status: int
    pid: int
    hit: bool
    value: str
    seconds: float


class Browser:
    """One kept connection, so that always the same worker answers, while it lives."""

    def __init__(self, app: AppServer) -> None:
        self.client = httpx.Client(base_url=f"{app.url}/{VIEWS[app.kind]}", timeout=30)
        self.pid = self.ask("browser").pid

    def ask(self, key: str) -> Answer:
        begin = time.monotonic()
        answer = self.client.get(f"/{key}/")
        seconds = time.monotonic() - begin
        said = answer.json() if answer.status_code == 200 else {"pid": 0, "hit": False, "value": answer.text}
        return Answer(answer.status_code, said["pid"], said["hit"], said["value"], seconds)


class Crowd:
    """Browsers of every worker, which ask together."""

    def __init__(self, browsers: list[Browser], pool: ThreadPoolExecutor) -> None:
        self.browsers, self._pool = browsers, pool

    def ask(self, key: str) -> list[Answer]:
        """What each was told; every answer is right and comes from the process it always came from."""
        answers = list(self._pool.map(lambda browser: browser.ask(key), self.browsers))
        assert {(answer.status, answer.value) for answer in answers} == {(200, f"the answer to {key}")}
        assert [answer.pid for answer in answers] == [browser.pid for browser in self.browsers]
        return answers

    def ask_for(self, seconds: float, key: str) -> list[Answer]:
        answers, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            answers += self.ask(key)
            time.sleep(0.05)
        return answers

    def all_hit(self, key: str) -> bool:
        return all(answer.hit for answer in self.ask(key))


@pytest.fixture
def crowd(app):
    with ExitStack() as stack, ThreadPoolExecutor(2 * BROWSERS_A_WORKER) as pool:
        kept: Counter[int] = Counter()
        browsers = []

        def every_worker_has_its_browsers():
            browser = Browser(app)
            stack.callback(browser.client.close)
            if kept[browser.pid] < BROWSERS_A_WORKER:
                kept[browser.pid] += 1
                browsers.append(browser)
            return len(browsers) == WORKERS[app.kind] * BROWSERS_A_WORKER

        wait_for(every_worker_has_its_browsers)
        yield Crowd(browsers, pool)


def test_a_process_opens_no_more_connections_than_it_has_threads_or_than_its_pool_may(app, crowd, database):
    """docs/how-to/connections.md#web-processes: --threads 4, and POOL_SIZE is 8."""
    crowd.ask_for(1, "counted")
    with psycopg.connect(database.url()) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgonly cache'"
        (opened,) = connection.execute(query).fetchone()
    assert WORKERS[app.kind] <= opened <= {"gunicorn": 2 * 4, "uvicorn": 8}[app.kind]


@pytest.mark.parametrize("outage", [stopped, frozen])
def test_a_view_answers_in_time_without_the_database_and_caches_again_when_it_is_back(
    app, database, crowd, outage
):
    before, after = (f"{app.kind}-{outage.__name__}-{when}" for when in ("before", "after"))
    wait_for(lambda: crowd.all_hit(before))
    with outage(database):
        first, later = crowd.ask(before), crowd.ask_for(OUTAGE_SECONDS, before)
        assert not any(answer.hit for answer in [*first, *later])
        assert max(answer.seconds for answer in [*first, *later]) < TWICE_SECONDS
        assert median(answer.seconds for answer in later) < AT_ONCE_SECONDS
    wait_for(lambda: crowd.all_hit(before), what="a hit")
    assert not crowd.browsers[0].ask(after).hit
    assert crowd.all_hit(after)
    assert app.process.poll() is None
