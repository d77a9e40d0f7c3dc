"""Which pages are generated."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from docs.generate import api, checks, commands, exceptions, models, settings, tasks
from docs.generate.markdown import WIDTH

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
NAMED = re.compile(r"\[[\w.#-]+\.md[\w#-]*\]\((?P<path>[\w./-]+\.md)(?:#(?P<heading>[\w-]+))?\)")
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
    return {name: f"{with_titles(text)}\n\n{END}" for name, text in texts.items()}


def with_titles(text: str) -> str:
    """The links say the words of the heading that they lead to. Paragraphs that grow too wide are filled again."""
    return "\n\n".join(map(filled, NAMED.sub(titled, text).rstrip().split("\n\n")))


def filled(block: str) -> str:
    is_wide = any(len(line) > WIDTH and not line.startswith("|") for line in block.splitlines())
    if not is_wide:
        return block
    return textwrap.fill(" ".join(block.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def titled(link: re.Match[str]) -> str:
    """The link with the words of its heading, or of the page's title, in the place of the name of a file."""
    lines = re.findall(r"^#+ (.+)$", (REFERENCE / link["path"]).resolve().read_text(), re.MULTILINE)
    words = next((line for line in lines if slug(line) == link["heading"]), lines[0])
    return link[0].replace(link[0][: link[0].index("]") + 1], f"[{words.replace('`', '')}]")


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
