"""Commands that the pages tell people to type: each exists and takes these arguments."""

from __future__ import annotations

import argparse
import re
import shlex

from django.core.management import get_commands, load_command_class
from django.core.management.base import CommandError

from tests.docs.pages import Page

LANGUAGES = ("", "sh", "console", "ini", "dockerfile", "procfile")
RUN = re.compile(r"(?:manage\.py|django-admin|-m django) +(?P<command>[a-z]\w*)(?P<rest>[^\n]*)")
OURS = re.compile(r"^(?:\$ +)?(?P<command>runworker|pgonly_\w+)(?P<rest>[^\n]*)", re.MULTILINE)
A_JOB, AN_ID = re.compile(r"\bJOB\b|[$]job\b"), "019ac0f2-6a3e-7cc1-b3a5-0c1d7a5be1f0"
REDIRECTION = re.compile(r"\s\d?[<>]")
ENDS = re.compile(r"[;&|<>()]+")
# The first words of the lines of `sh` blocks that are no command of ours. tests/docs/test_pages.py says where.
OTHER_PROGRAMS = {
    ".venv/bin/pip", ".venv/bin/python", "cd", "curl", "export", "kill", "mkdir", "pip", "python", "python3",
    "server=$!", "sleep", "sort", "test", "worker=$!",
}  # fmt: skip


def commands_in(code: str) -> list[tuple[str, list[str]]]:
    """The management commands in a block, with their arguments."""
    joined = A_JOB.sub(AN_ID, code.replace("\\\n", " "))
    found = [*RUN.finditer(joined), *OURS.finditer(joined)]
    return [(each["command"], arguments_in(each["rest"])) for each in found]


def arguments_in(line: str) -> list[str]:
    """The words up to a comment, a pipe or the next command."""
    words = shlex.shlex(REDIRECTION.split(line)[0], posix=True, punctuation_chars=True)
    words.whitespace_split = True
    arguments: list[str] = []
    for word in words:
        if ENDS.fullmatch(word):
            break
        arguments.append(word)
    return arguments


def what_is_wrong(command: str, arguments: list[str]) -> str | None:
    """As `manage.py` would say it."""
    app = get_commands().get(command)
    if app is None:
        return f"There is no command {command}."
    parser = load_command_class(app, command).create_parser("manage.py", command)
    parser.called_from_command_line = False  # an error is raised
    try:
        parser.parse_args(arguments)
    except CommandError as error:
        return f"{command} {' '.join(arguments)}: {error}"
    return None


def mistakes_in(page: Page) -> list[str]:
    found = [each for block in page.blocks if block.language in LANGUAGES for each in commands_in(block.code)]
    return [wrong for each in found if (wrong := what_is_wrong(*each))]


def unknown_flags_in(page: Page) -> list[str]:
    """Flags that code in the text, such as `runworker --processes 4`, gives to a command of ours without them."""
    wrong = []
    for code in page.inline_code:
        found = re.match(r"(?:python )?(?:manage\.py )?(runworker|pgonly_\w+) (.*)", code)
        if found and found[1] in get_commands():
            parser = load_command_class("pgonly_django", found[1]).create_parser("manage.py", found[1])
            flags = set(re.findall(r"(?<!\S)--[\w-]+", found[2]))
            wrong += [f"{found[1]} has no {flag}: `{code}`" for flag in flags - all_flags(parser)]
    return wrong


def all_flags(parser) -> set[str]:
    """Those of its subcommands too."""
    flags = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags |= {flag for sub in action.choices.values() for flag in all_flags(sub)}
    return flags


def other_programs_in(code: str) -> set[str]:
    """The first words of the lines that run no management command."""
    lines = code.replace("\\\n", " ").splitlines()
    bare = [
        re.sub(r"^\$ +", "", line) for line in lines if line.strip() and not line.lstrip().startswith("#")
    ]
    return {line.split()[0] for line in bare if not RUN.search(line) and not OURS.match(line)}
