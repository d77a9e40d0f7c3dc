"""Django's own command, for sites without django.contrib.sessions in INSTALLED_APPS."""

from __future__ import annotations

from django.contrib.sessions.management.commands.clearsessions import Command

__all__ = ["Command"]
