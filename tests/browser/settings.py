"""The example project as the browser sees it: strict CSP, our sessions and caches. BROWSER_THEME puts a theme of the
admin before it; themes have inline scripts of their own, so the CSP is the example's only without one."""

import os

from example_project.settings import *  # noqa: F403 - the same site

THEME = os.environ.get("BROWSER_THEME", "plain")
THEMES = {"plain": (), "unfold": ("unfold",), "jazzmin": ("jazzmin",)}
INSTALLED_APPS = [*THEMES[THEME], *INSTALLED_APPS]  # noqa: F405 - of the example
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if THEME != "plain":
    MIDDLEWARE.remove("example_project.security.content_security_policy")  # noqa: F405 - of the example
PGONLY["LEASE_SECONDS"] = env.float("TEST_LEASE_SECONDS", default=60)  # noqa: F405 - of the example
ROOT_URLCONF = "tests.browser.urls"
