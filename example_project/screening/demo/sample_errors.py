"""What goes wrong in the sample tasks: a full mailbox, a mail server that is down, a file that cannot be read."""

from __future__ import annotations

BROKEN = ("wos.csv", 3_500)


class MailboxFullError(Exception):
    """The other side refuses a mail for now."""


def deliver(to: str, subject: str) -> None:
    """An address at `full.example` is refused each time."""
    if to.endswith("@full.example"):
        raise MailboxFullError(f"552 5.2.2 <{to}>: mailbox full, try again after {subject!r} was read")


def refuse_connection() -> None:
    raise ConnectionRefusedError(111, "mail.site.example does not accept connections")


def read_row(source: str, row: int) -> None:
    """One row of one file has a title without its closing quote."""
    if (source, row) == BROKEN:
        try:
            _split(f'{row},"Aspirin against placebo')
        except ValueError as error:
            raise RuntimeError(f"{source} could not be read beyond row {row}") from error


def _split(text: str) -> list[str]:
    if text.count('"') % 2:
        raise ValueError(f"unbalanced quote in {text!r}")
    return text.split(",")
