"""reference/checks.md"""

from __future__ import annotations

import re
from pathlib import Path

from docs.generate.markdown import table

DOCS = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| `pgonly_django\.([EWI]\d{3})` \| (.+?) \|.*$", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TEXT = """
# System checks

The checks that `manage.py check` runs on the settings; `runserver`, `migrate`, `runworker` and
`test` run them too. Each message names the place and the value, and its hint says what to do. `E`
is an error, with which commands do not start, `W` is a warning, and `I` is worth knowing.
`SILENCED_SYSTEM_CHECKS` takes the ids. Those from `E501` on and `W005` run only with `check
--deploy`; `E050`, `E060`, `I060` and `W102` with `check --database default`, and the first three
with `migrate` too.

{checks}
"""


def page() -> str:
    rows = [
        (f"`pgonly_django.{number}`", text, f"[{link.rpartition('/')[2].partition('#')[0]}]({link})")
        for number, (text, link) in sorted(described().items(), key=lambda item: (item[0][1:], item[0]))
    ]
    return TEXT.strip().format(checks=table(["id", "it says that", "page"], rows))


def described() -> dict[str, tuple[str, str]]:
    """What the pages say of each id, in the longest of their rows, with the link to it."""
    found: dict[str, tuple[str, str]] = {}
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text()
        if page.parent.name != "project" and page.name != "checks.md":
            for row in ROW.finditer(text):
                if len(row[2]) > len(found.get(row[1], ("", ""))[0]):
                    found[row[1]] = (moved(row[2], page), address(page, text[: row.start()]))
    return found


def moved(text: str, page: Path) -> str:
    """Its links as they are from reference/."""
    own = f"](../{page.parent.name}/"
    return re.sub(r"\]\((?![a-z]+:|\.\./)(#?)", lambda link: own + page.name * bool(link[1]) + link[1], text)


def address(page: Path, above: str) -> str:
    """The link at the section in which the row is."""
    heading = HEADING.findall(above)[-1]
    anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    return f"../{page.parent.name}/{page.name}#{anchor}"
