"""The first template that a site renders loads the tags of all apps, so ours load on any site."""

from __future__ import annotations

from pathlib import Path

from tests import zygote

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import sys, django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["pgonly_django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
django.setup()
from django.template import engines
print(engines["django"].from_string("{{ word }}").render({"word": "rendered"}))
assert {"pgonly", "pgonly_admin"} <= {*engines["django"].engine.template_libraries}
assert not [name for name in sys.modules if name.startswith("pgonly_django.admin")]
"""


def test_a_site_without_the_admin_renders_its_templates():
    done = zygote.run(["-c", SCRIPT])
    assert (done.stdout, done.stderr) == ("rendered\n", "")
