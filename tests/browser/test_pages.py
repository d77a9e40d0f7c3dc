"""Every page of the seeded demo, at each width, in light and in dark."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from example_project.screening.demo import seeding
from tests.browser.chromium import SCROLLS_SIDEWAYS
from tests.browser.conftest import DESKTOP, PHONE, TABLET
from tests.browser.pages import pages

pytestmark = pytest.mark.slow

CUT = (Path(__file__).parent / "cut.js").read_text()
# Django's own pages about whose width this package has no say.
DJANGOS = {"admin-index"}
# Tables that scroll inside of themselves on a phone.
SCROLL_INSIDE = {"cacheentry-numbers"}
# Of the seeded jobs' arguments, which are masked by their names for everyone.
SECRETS = ("s3cret", "sk-demo")

AXE_VERSION = "4.14.1"
# Git ignores the folder.
AXE_FOLDER = Path(__file__).resolve().parents[2] / ".ci-cache" / f"axe-core-{AXE_VERSION}"
AXE = AXE_FOLDER / "node_modules/axe-core/axe.min.js"
FETCH_SECONDS = 60
# What WCAG 2.2 asks for at the levels A and AA. The colours are looked at once more in dark.
RULES = {
    "light": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    "dark": {"type": "rule", "values": ["color-contrast"]},
}
# Django's own, about which this package has no say.
FRAME = ["#header", "#nav-sidebar", ".breadcrumbs", ".pgonly-breadcrumbs", "#changelist-filter"]
VIOLATIONS = """async ([rules, exclude]) => {
    document.getAnimations().forEach((change) => change.finish());  // links go from one colour to the next
    const { violations } = await axe.run({ exclude }, { runOnly: rules, resultTypes: ["violations"] });
    return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
}"""


@pytest.fixture
def demo(person):
    seeding.seed()
    return person


@pytest.fixture
def axe() -> str:
    """The text of axe-core, fetched from npm once."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is missing, which fetches axe-core")
    if not AXE.exists():
        command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]
        fetched = subprocess.run(
            [*command, AXE_FOLDER, f"axe-core@{AXE_VERSION}"],
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
        if fetched.returncode != 0:
            pytest.skip(f"npm could not fetch axe-core: {fetched.stderr.strip()[-300:]}")
    return AXE.read_text()


def test_no_page_breaks_the_csp_or_cuts_something_off(demo):
    """Of script errors and violations of the CSP the person's browser complains at the end."""
    admin = demo()
    problems = []
    for name, path in pages().items():
        page = admin.goes_to(path)
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


@pytest.mark.timeout(600)  # it takes half a minute, and on a busy machine some
def test_axe_finds_no_violation_of_wcag_aa_on_any_page_in_light_or_dark(demo, axe):
    admin = demo(bypass_csp=True)  # axe sets styles of its own while it looks
    problems = []
    for name, path in pages().items():
        page = admin.goes_to(path)
        page.evaluate(axe)
        for colours, rules in RULES.items():
            page.emulate_media(color_scheme=colours)
            found = page.evaluate(VIOLATIONS, [rules, FRAME])
            problems += [f"{name}, {colours}: {text}" for text in found]
    assert not problems, "\n".join(problems)
