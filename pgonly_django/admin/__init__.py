"""The pages of Django's admin. Importing this package registers every ModelAdmin in it: a new one needs no list."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
