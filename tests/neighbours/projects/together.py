from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import CACHES, INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS += [
    "allauth",
    "allauth.account",
    "allauth.usersessions",
    "auditlog",
    "axes",
    "channels",
    "django_extensions",
    "django_ratelimit",
    "guardian",
    "health_check",
    "hijack",
    "import_export",
    "ninja",
    "rest_framework",
    "reversion",
    "silk",
    "simple_history",
    "social_django",
    "tests.neighbours.library",
    "waffle",
]
MIDDLEWARE += [
    "allauth.account.middleware.AccountMiddleware",
    "hijack.middleware.HijackUserMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
    "social_core.backends.google.GoogleOAuth2",
]
AXES_ENABLED = False  # its handler fails for logins over a websocket, which have no request
CACHES["throttles"] = {**CACHES["default"], "LOCATION": "throttles"}
CACHES["local"] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
REST_FRAMEWORK = {
    "DEFAULT_THROTTLE_RATES": {"anon": "5/min", "user": "5/min", "upload": "2/hour", "nothing": None}
}
NINJA_DEFAULT_THROTTLE_RATES = {"anon": "5/5m", "user": "5/5m", "auth": "5/5m"}
SOCIAL_AUTH_GOOGLE_OAUTH2_KEY = SOCIAL_AUTH_GOOGLE_OAUTH2_SECRET = "of no site"
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_RATE_LIMITS = {"login_failed": "3/5m/ip"}
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "/"
