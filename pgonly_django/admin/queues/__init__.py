"""Queues in the admin: the list with what waits and runs, and the page of one with its limits."""

from pgonly_django.admin.queues.queue_admin import QueueAdmin

__all__ = ["QueueAdmin"]
