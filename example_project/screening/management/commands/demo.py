"""`manage.py demo`: from an empty checkout to a screened project, with PostgreSQL alone."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from example_project.screening.demo import prepare, seeding, two_workers
from example_project.screening.demo.children import ChildDied, Children
from example_project.screening.demo.headless import Headless, ScreeningError, as_text
from example_project.screening.demo.interactive import Interactive
from example_project.screening.demo.start import HOST, IN_USE, INTERRUPTED, PORT, answers
from example_project.screening.demo.terminal import Terminal
from example_project.screening.demo.two_workers import TwoWorkers
from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome
from example_project.screening.status import shown
from example_project.screening.tasks import screen_project
from pgonly_django.tasks import PostgresBackend

LEASE_SECONDS = 3  # so that a killed worker's job is rescued soon; a site keeps the default of 60
INTERACTIVE_DELAY_SECONDS = 0.5
# As of a large model, so that the sample costs about $0.10. The offline reviewers only pretend to.
USD_PER_MILLION_IN, USD_PER_MILLION_OUT = 3, 15
ENOUGH_USD = Decimal(1000)
BUSY_POSITION = 10  # of the paper about which the first reviewer answers 429
BUDGET_HELP = (
    "The first project's budget. With --headless: two projects on two workers, a 429 that both heed, and the first "
    "project held at its budget and resumed. 0.05 is about half of what the sample costs."
)
SEED_HELP = (
    "Write sample jobs, schedules, limits, cache entries and sessions also into a database that DATABASE_URL names. "
    "The demo's own database gets them without this flag."
)


class Command(BaseCommand):
    help = "Screen papers with two reviewers: starts the web server, the worker and the database."

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--csv", type=Path, default=prepare.SAMPLE, help="A file of papers. Default: 40 invented ones.")
        add("--headless", action="store_true", help="No web server: run to the end, print a summary, exit.")
        add("--json", action="store_true", help="With --headless: print nothing but the summary, as JSON.")
        add("--kill-at", type=_percent, metavar="PERCENT", help="With --headless: SIGKILL the worker there.")
        add("--budget", type=_dollars, metavar="USD", help=BUDGET_HELP)
        add("--delay", type=_seconds, metavar="SECONDS", help="Added to every call. Default: watchable.")
        add(
            "--reuse-answers",
            action="store_true",
            help="Take the answers of earlier runs from the durable cache.",
        )
        add("--seed", action="store_true", help=SEED_HELP)
        add("--port", type=int, default=PORT, help="The port of the web server. Default: 8000.")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002 - Django's signature
        self._check(options)
        prepare.migrate()
        try:
            project = prepare.load(options["csv"], options["budget"])
        except (OSError, ValueError) as error:
            raise CommandError(f"{options['csv']}: {error}") from error
        run = self._serve
        if options["headless"]:
            run = self._run_headless if options["budget"] is None else self._run_two_workers
        try:
            with self._children(project, options) as children:
                run(project, children, options)
        except (ChildDied, ScreeningError, TimeoutError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            what = "screening is cancelled" if options["headless"] else "demo ends"
            raise CommandError(f"Interrupted: the {what}.", returncode=INTERRUPTED) from None

    def _check(self, options: dict[str, Any]) -> None:
        if not isinstance(screen_project.get_backend(), PostgresBackend):
            raise CommandError("The demo needs a worker: unset TASKS_BACKEND, or set it to postgres.")
        if options["kill_at"] and options["budget"] is not None:
            raise CommandError("--kill-at and --budget are two demos: choose one.")
        if options["headless"] and options["seed"]:
            raise CommandError("--seed fills the pages, and --headless has none: choose one.")
        if not options["headless"]:
            for flag in ("json", "kill_at"):
                if options[flag]:
                    raise CommandError(f"--{flag.replace('_', '-')} needs --headless.")
            if answers(options["port"]):
                raise CommandError(IN_USE.format(port=options["port"]))

    def _children(self, project: Project, options: dict[str, Any]) -> Children:
        delay = options["delay"]
        if delay is None and options["headless"]:
            delay = prepare.default_delay(project.papers.count())
        elif delay is None:
            delay = INTERACTIVE_DELAY_SECONDS
        environment = {
            "PGONLY_LEASE_SECONDS": str(LEASE_SECONDS),
            "SCREENING_DELAY_SECONDS": str(delay),
            "SCREENING_REUSE_ANSWERS": str(options["reuse_answers"]),
            "SCREENING_USD_PER_MILLION_IN": str(USD_PER_MILLION_IN),
            "SCREENING_USD_PER_MILLION_OUT": str(USD_PER_MILLION_OUT),
            "DEBUG": "true",
        }
        if options["budget"] is not None:
            busy = project.papers.filter(position=min(BUSY_POSITION, project.papers.count())).get()
            environment["SCREENING_BUSY_PAPER"] = str(busy.pk)
        return Children(settings.ROOT, settings.ROOT / ".demo", environment)

    def _run_headless(self, project: Project, children: Children, options: dict[str, Any]) -> None:
        quiet = options["json"]
        terminal = Terminal(None if quiet else sys.stdout, project.papers.count())
        terminal.say(
            f"{project.name}: {project.papers.count()} papers, reviewers {' and '.join(project.reviewers)}"
        )
        summary = Headless(project, children, terminal, options["kill_at"]).run()
        self.stdout.write(json.dumps(summary, indent=2) if quiet else as_text(summary))

    def _run_two_workers(self, project: Project, children: Children, options: dict[str, Any]) -> None:
        second = prepare.load(options["csv"], ENOUGH_USD, name="Clinical trials once more")
        quiet = options["json"]
        terminal = Terminal(None if quiet else sys.stdout, 2 * project.papers.count())
        budget = shown(project.budget_usd)
        terminal.say(
            f"Two projects of {project.papers.count()} papers, a worker for each, and limiters for "
            f"{' and '.join(project.reviewers)} that both share. The budget of the first is {budget}."
        )
        summary = TwoWorkers([project, second], children, terminal).run()
        self.stdout.write(json.dumps(summary, indent=2) if quiet else two_workers.as_text(summary))

    def _serve(self, project: Project, children: Children, options: dict[str, Any]) -> None:
        login = prepare.make_admin()
        seeded = self._seed(options, login.password)
        address = f"http://{HOST}:{options['port']}"
        guide = "\n".join((
            f"{project.papers.count()} papers are loaded, and a worker is waiting. {seeded}",
            f"  page       {address}/projects/{project.pk}/   press Start",
            *self._questions(address),
            f"  admin      {address}/admin/   user {login.username}, password {login.password}",
            f"  devices    {address}/account/devices/   where {login.username} is signed in",
            f"  logs       {children.logs}",
        ))  # fmt: skip
        try:
            Interactive(children, sys.stdout, options["port"]).serve(guide)
        except KeyboardInterrupt:
            self.stdout.write("\nStopping the web server and the worker.")

    def _questions(self, address: str) -> list[str]:
        """Where a person answers, if a seeded project has disputed papers."""
        return [
            f"  decide     {address}/projects/{asks.pk}/   {count} papers wait for your decision, here or in the admin"
            for asks in Project.objects.filter(name=seeding.projects.NAME)
            if (count := Paper.objects.of(asks).of_outcome(Outcome.DISPUTED).count())
        ]

    def _seed(self, options: dict[str, Any], password: str) -> str:
        """What became of it. In a database that is not the demo's own, rows are somebody's: it is asked for first."""
        if not (settings.HAS_OWN_DATABASE or options["seed"]):
            return "The admin has no sample jobs: --seed writes them into the database of DATABASE_URL."
        try:
            is_filled = seeding.seed()
        except seeding.ForeignDatabaseError as error:
            if options["seed"]:
                raise CommandError(str(error)) from error
            return str(error)
        if not is_filled:
            return "Another worker lives in this database, so the sample jobs were left as they are."
        seeding.let_roles_in(password)
        return "The admin is filled with sample jobs; users operator and reader have the same password."


def _dollars(text: str) -> Decimal:
    value = Decimal(text)
    if not 0 < value <= 1000:  # noqa: PLR2004 - what a demo may cost; false for nan too
        raise ValueError(text)
    return value


def _percent(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 99:  # noqa: PLR2004 - a percentage, neither end included
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 60:  # noqa: PLR2004 - a minute; false for nan too
        raise ValueError(text)
    return value
