"""One Chromium and one web server for all tests of a lane, on the test database; and persons who look at its pages."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

import pgonly_django
from example_project import settings as example
from example_project.screening.demo.seeding import users
from pgonly_django.models import Worker
from tests import activity
from tests.browser.chromium import Chromium, executable, follow, listen
from tests.browser.site import Site, cookie_of
from tests.children import database_url
from tests.waiting import wait_for

LEASE_SECONDS = 3
STATIC = Path(pgonly_django.__file__).parent / "static/pgonly_django"
DESKTOP, TABLET, PHONE = (
    {"width": width, "height": height} for width, height in ((1280, 900), (1024, 768), (390, 844))
)
ADMIN, OPERATOR, READER = "admin", users.OPERATOR, users.READER


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    if executable() is None:
        assert not os.environ.get("CI"), "CI installs Chromium, and it is not there."
        pytest.skip("Chromium is missing")
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def site(chromium, django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Site]:
    with django_db_blocker.unblock():
        url = database_url()
    log = tmp_path_factory.mktemp("site") / "site.log"
    slow = {"SCREENING_DELAY_SECONDS": "0.05", "SCREENING_REUSE_ANSWERS": "false"}
    with Site(url, log, TEST_LEASE_SECONDS=str(LEASE_SECONDS), **slow) as running:
        yield running


# The web server goes on for the whole lane. A test behind this one may want to copy the database, which nobody else may
# be connected to then.
OF_CACHES = "application_name = 'pgonly cache'"


class Person:
    """A signed-in browser window. `page` is Playwright's. What the browser complains about is kept."""

    def __init__(self, chromium: Chromium, site: Site, user: Any, **options: Any) -> None:
        self.site, self.user = site, user
        self.complaints: list[str] = []
        self.context = chromium.new_context(viewport=DESKTOP, **options)
        if user is not None:
            self.context.add_cookies([cookie_of(user, site.url)])
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        listen(self.page, self.complaints)

    def goes_to(self, path: str, status: int = 200) -> Any:
        answer = self.page.goto(self.site.url + path)
        assert answer.status == status, f"{path} answered {answer.status}"
        return self.page

    def presses(self, name: str, place: Any = None) -> None:
        """The button, and waits for the page that follows."""
        follow(self.page, (place or self.page).get_by_role("button", name=name, exact=True).first.click)

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def person(transactional_db, settings, chromium, site) -> Iterator[Callable[..., Person]]:
    """person("operator") has signed in; person(None) has not. At the end nobody's browser has complained."""
    settings.SESSION_ENGINE, settings.CACHES = example.SESSION_ENGINE, example.CACHES
    users.make_roles()
    persons: list[Person] = []

    def sign_in(role: str | None = ADMIN, **options: Any) -> Person:
        user = None
        if role == ADMIN:
            user, _ = User.objects.get_or_create(username="admin", is_staff=True, is_superuser=True)
        elif role is not None:
            user = User.objects.get(username=role)
        persons.append(Person(chromium, site, user, **options))
        return persons[-1]

    yield sign_in
    for each in persons:
        each.close()
    activity.end(OF_CACHES)
    assert [complaint for each in persons for complaint in each.complaints] == []


@pytest.fixture
def expect(chromium) -> Any:
    """Playwright's: expect(locator).to_be_visible(), which waits."""
    return chromium.expect


class RunningWorkers:
    def __init__(self, site: Site) -> None:
        self.site, self.processes = site, []

    def start(self, queues: str, name: str = "worker") -> Any:
        """Returns its process once it has registered."""
        flags = ("--queues", queues, "--name", name, "--threads", "4", "--grace-seconds", "1")
        self.processes.append(self.site.start("runworker", *flags))
        wait_for(lambda: Worker.objects.filter(name=name, stopped_at=None).exists(), what="the worker")
        return self.processes[-1]

    def end(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


@pytest.fixture
def workers(transactional_db, site) -> Iterator[RunningWorkers]:
    running = RunningWorkers(site)
    yield running
    running.end()


class ScriptPage:
    """A page of one of our scripts alone. What else it asks for is answered by `answers(route)`."""

    script = ""  # its name among our static files

    def __init__(self, chromium: Chromium) -> None:
        self.context = chromium.new_context()
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.route("**/*", self._answer)

    def _answer(self, route: Any) -> None:
        if route.request.url.endswith(".js"):
            route.fulfill(body=(STATIC / self.script).read_text(), content_type="text/javascript")
        else:
            self.answers(route)

    def answers(self, route: Any) -> None:
        raise NotImplementedError
