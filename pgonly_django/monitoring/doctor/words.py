"""Numbers, names and values in the texts of findings."""

from __future__ import annotations

from psycopg.sql import quote

MINUTE, HOUR, DAY = 60, 3600, 86_400
KB = 1024
SHOWN_AT_MOST = 5


def size(of_bytes: float) -> str:
    """ "12 kB", "340 MB", "1.2 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if of_bytes < KB:
            return f"{of_bytes:.0f} {unit}"
        of_bytes /= KB
    return f"{of_bytes:,.1f} GB"


def counted(number: int, noun: str, more: str = "") -> str:
    """ "1 job", "1,204 jobs". `more` is the plural where it takes more than an s."""
    return f"{number:,} {noun if number == 1 else more or f'{noun}s'}"


def named(names: list[str]) -> str:
    """The first SHOWN_AT_MOST of them, and how many more there are."""
    rest = len(names) - SHOWN_AT_MOST
    return ", ".join(names[:SHOWN_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def identifier(*parts: str) -> str:
    """A name as SQL has it: `"job_queue"."pgonly_job"`."""
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in parts)


def literal(text: str) -> str:
    """A value as SQL has it: `'it''s'`."""
    return quote(text)


def database_flag(alias: str) -> str:
    """For the commands in an advice."""
    return "" if alias == "default" else f" --database {alias}"
