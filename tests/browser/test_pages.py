"""Every page of the seeded demo, at each width, in light and in dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_project.screening.demo import seeding
from tests.browser.chromium import SCROLLS_SIDEWAYS
from tests.browser.conftest import DESKTOP, PHONE, TABLET
from tests.browser.pages import pages

pytestmark = pytest.mark.slow

CONTRAST, CUT = ((Path(__file__).parent / name).read_text() for name in ("contrast.js", "cut.js"))
# Of WCAG 2 for text of a usual size is 4.5. Django's own quiet text has 4.4 on its own rows.
READABLE = 4.3
# Django's own pages about whose width this package has no say.
DJANGOS = {"admin-index"}
# Tables that scroll inside of themselves on a phone.
SCROLL_INSIDE = {"cacheentry-numbers"}
# Of the seeded jobs' arguments, which are masked by their names for everyone.
SECRETS = ("s3cret", "sk-demo")


@pytest.fixture
def demo(person):
    seeding.seed()
    return person


def test_no_page_breaks_the_csp_or_cuts_something_off_or_is_hard_to_read_in_light_or_dark(demo):
    """Of script errors and violations of the CSP the person's browser complains at the end."""
    admin = demo()
    problems = []
    for name, path in pages().items():
        page = admin.goes_to(path)
        for colours in ("dark", "light"):
            page.emulate_media(color_scheme=colours)
            problems += [f"{name}, {colours}: {text}" for text in page.evaluate(CONTRAST, READABLE)]
        problems += [f"{name} shows a secret" for secret in SECRETS if secret in page.content()]
        for size in (PHONE, TABLET, DESKTOP):
            page.set_viewport_size(size)
            if name in DJANGOS:
                continue
            # On a tablet lists of Django's may scroll inside of themselves.
            if size is not TABLET and name not in SCROLL_INSIDE:
                problems += [f"{name}: {text} is cut at {size['width']} px" for text in page.evaluate(CUT)]
            if (beyond := page.evaluate(SCROLLS_SIDEWAYS)) > 0:
                problems.append(f"{name} scrolls sideways by {beyond} px at {size['width']} px")
    assert not problems, "\n".join(problems)
