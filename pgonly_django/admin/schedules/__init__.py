"""Schedules in the admin: the list with what runs when, and the page of one with its ticks."""

from pgonly_django.admin.schedules.schedule_admin import ScheduleAdmin

__all__ = ["ScheduleAdmin"]
