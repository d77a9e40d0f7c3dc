"""The end of reference/models.md."""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps

from docs.generate.markdown import paragraphs, table

TEXT = """
## Permissions

The permissions of this package, as `user.has_perm()` names them.
[admin.md](../how-to/admin.md#permissions) says which page and which button needs which.

### Added to Django's four

{own}

### Django's four

{django}
"""
OF_DJANGO = "{actions}, each with the name of a model behind it, such as `view_job`: {models}."


def chapter() -> str:
    return TEXT.strip().format(
        own=table(["permission", "allows"], own()),
        django=paragraphs(OF_DJANGO.format(**of_django())),
    )


def own() -> Iterator[tuple[str, str]]:
    for model in apps.get_app_config("pgonly_django").get_models():
        for name, words in model._meta.permissions:
            yield f"`pgonly_django.{name}`", str(words).removeprefix("Can ")


def of_django() -> dict[str, str]:
    models = [each for each in apps.get_app_config("pgonly_django").get_models() if not each._meta.proxy]
    actions = dict.fromkeys(action for model in models for action in model._meta.default_permissions)
    return {
        "actions": ", ".join(f"`{action}_`" for action in actions),
        "models": ", ".join(f"`{model._meta.model_name}`" for model in models),
    }
