"""Which pages are generated."""

from __future__ import annotations

from pathlib import Path

from docs.generate import api, checks, commands, exceptions, models, settings, tasks

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
END = "Generated from the code by `python -m docs.generate`.\n"


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    texts = {
        "api.md": api.page(),
        "checks.md": checks.page(),
        "commands.md": commands.page(),
        "exceptions.md": exceptions.page(),
        "models.md": models.page(),
        "settings.md": settings.page(),
        "tasks.md": tasks.page(),
    }
    return {name: f"{text.rstrip()}\n\n{END}" for name, text in texts.items()}
