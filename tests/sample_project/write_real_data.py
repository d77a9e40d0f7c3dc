"""Writes the project's real data: `python -m tests.sample_project.write_real_data`."""

import django


def main() -> None:
    django.setup()
    from django.core.cache import caches
    from django.core.management import call_command

    from pgonly_django.sessions import SessionStore
    from tests.sample_project.tasks import do_nothing

    for alias in ("default", "other"):
        call_command("migrate", database=alias, verbosity=0)
    for cache in caches.settings:
        caches[cache].set("stored", "real", None)
    session = SessionStore()
    session["stored"] = "real"
    session.save()
    do_nothing.enqueue()


if __name__ == "__main__":
    main()
