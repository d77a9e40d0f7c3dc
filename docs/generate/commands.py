"""reference/commands.md"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from django.core.management import load_command_class
from django.core.management.base import BaseCommand

from docs.generate.markdown import paragraphs, table
from pgonly_django.management import commands as package

TEXT = """
# Commands

The commands of `manage.py` that this package adds. Django's own flags, such as `--settings` and
`--verbosity`, work with each of them.
"""
# The help of --since has the present day in it.
TODAY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
SEE = {
    "clearsessions": "sessions.md",
    "pgonly_cache": "cache.md",
    "pgonly_doctor": "doctor.md",
    "pgonly_encrypt_sessions": "sessions.md#what-a-leaked-table-tells",
    "pgonly_health": "monitoring.md#pgonly_health",
    "pgonly_import_sessions": "sessions.md#moving-from-another-engine",
    "pgonly_jobs": "queue.md#pgonly_jobs",
    "pgonly_tick_url": "serverless.md#a-tick-jobs-inside-a-web-process",
    "runworker": "deploy.md#the-worker",
}


def page() -> str:
    names = sorted(
        file.stem for file in Path(package.__file__).parent.glob("*.py") if file.stem != "__init__"
    )
    return "\n\n".join([TEXT.strip(), *(part for name in names for part in section(name))])


def section(name: str) -> Iterator[str]:
    command = load_command_class("pgonly_django", name)
    parser = command.create_parser("manage.py", name)
    see = f" See [{SEE[name].partition('#')[0]}](../how-to/{SEE[name]})." if name in SEE else ""
    yield f"## {name}"
    yield paragraphs(f"{sentence(command.help)}{see}")
    yield from arguments(parser, of_django())
    yield from verbs(parser)
    if parser.epilog:
        yield paragraphs(parser.epilog)


def arguments(parser: argparse.ArgumentParser, known: Collection[str]) -> Iterator[str]:
    if rows := list(arguments_of(parser, known)):
        yield table(["argument", ""], rows)


def arguments_of(parser: argparse.ArgumentParser, known: Collection[str]) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        is_group = isinstance(action, argparse._SubParsersAction)
        if action.dest not in known and not is_group and action.help != argparse.SUPPRESS:
            yield spelled(action), help_of(action, parser)


def verbs(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Two tables: the subcommands, and all of their arguments with those that take them."""
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in group._choices_actions}
            yield table(["verb", ""], [(f"`{verb}`", sentence(helps[verb])) for verb in group.choices])
            takers: dict[tuple[str, str], list[str]] = {}
            for verb, sub in group.choices.items():
                for row in arguments_of(sub, {"help"}):
                    takers.setdefault(row, []).append(verb)
            rows = [(*row, whose(taking, list(group.choices))) for row, taking in takers.items()]
            yield table(["argument", "", "of"], rows)


def whose(taking: list[str], known: list[str]) -> str:
    """Their names, or those of the few others."""
    if len(taking) == len(known):
        return "all"
    others = [f"`{verb}`" for verb in known if verb not in taking]
    if len(others) < len(taking):
        return f"all but {', '.join(others)}"
    return ", ".join(f"`{verb}`" for verb in taking)


def of_django() -> set[str]:
    plain = type("Command", (BaseCommand,), {}).create_parser(BaseCommand(), "manage.py", "plain")
    return {action.dest for action in plain._actions}


def spelled(action: argparse.Action) -> str:
    """`--queues NAMES`, `ID ...`"""
    value = "" if action.nargs == 0 else str(action.metavar or choices(action) or action.dest.upper())
    more = " ..." if action.nargs in ("*", "+") else ""
    names = action.option_strings or [value]
    return ", ".join(
        f"`{name}{f' {value}' if value and action.option_strings else ''}{more}`" for name in names
    )


def choices(action: argparse.Action) -> str:
    return "|".join(map(str, action.choices)) if action.choices else ""


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return sentence(re.sub(r"\s+", " ", TODAY.sub("2026-05-04T10:00", text)))


def sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "?")) else f"{text}."
