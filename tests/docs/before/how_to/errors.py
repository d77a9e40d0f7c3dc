import sentry_sdk

SENTRY_DSN = None


def after(page):
    from pgonly_django.monitoring.sentry import PgonlyIntegration

    assert isinstance(sentry_sdk.get_client().get_integration("pgonly_django"), PgonlyIntegration)
    sentry_sdk.get_global_scope().set_client(None)
