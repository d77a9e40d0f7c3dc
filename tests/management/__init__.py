from __future__ import annotations

from django.core.management import CommandError, call_command


def outcome(capsys, *command):
    """The exit code of a command, and what it printed."""
    try:
        call_command(*map(str, command))
        code = 0
    except SystemExit as ended:
        code = ended.code
    except CommandError as error:
        code = error.returncode
    return code, capsys.readouterr().out
