"""Sessions in the admin: found by user and address, and revoked. Their data need a permission for themselves."""

from pgonly_django.admin.sessions.session_admin import SessionAdmin

__all__ = ["SessionAdmin"]
