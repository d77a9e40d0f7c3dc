import sentry_sdk

from pgonly_django import instruments

SENTRY_DSN = None
hooks = {
    name: hook.functions for name, hook in vars(instruments).items() if isinstance(hook, instruments.Hook)
}


def after(page):
    from pgonly_django.monitoring.sentry import PgonlyIntegration

    assert isinstance(sentry_sdk.get_client().get_integration("pgonly_django"), PgonlyIntegration)
    sentry_sdk.get_global_scope().set_client(None)
