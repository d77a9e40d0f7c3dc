"""The row of a session. ARCHITECTURE.md, "When you change a column", names the other files that know its columns."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Func, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.models.readable import JsonField, TimestampField
from pgonly_django.tables import table

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.core.checks import CheckMessage


def hash_key(session_key: str) -> bytes:
    """Returns the hash of the cookie in the table. SHA-256 needs no salt or stretching: a key has 165 random bits."""
    return hashlib.sha256(session_key.encode("utf-8", "surrogatepass")).digest()


def hash_user(user_id: str) -> bytes:
    """Returns the key of the row that keeps a user's sessions of another engine out. No text or cookie has its byte."""
    return hashlib.sha256(b"\xffuser:" + user_id.encode("utf-8", "surrogatepass")).digest()


def user_id_of(user: AbstractBaseUser) -> str:
    """Returns the text that `Session.user_id` has for `user`."""
    return user._meta.pk.value_to_string(user)  # noqa: SLF001 - documented under this name


class DigestField(models.Field):  # type: ignore[type-arg] # Django's own Field takes no parameters
    """A field with 32 bytes in the database, and 64 hex digits in Python and in URLs."""

    def get_internal_type(self) -> str:
        return "BinaryField"

    def from_db_value(self, value: bytes | None, *_: Any) -> str | None:
        return None if value is None else bytes(value).hex()

    def to_python(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return value.hex()
        try:
            self.get_prep_value(value)
        except ValueError as error:
            raise ValidationError(_("These are not hex digits: %s.") % value) from error
        return value

    def get_prep_value(self, value: Any) -> Any:
        return bytes.fromhex(value) if isinstance(value, str) else value


class StoredGeneratedField(models.GeneratedField):
    """Django's GeneratedField, without the query to a server that `check` and `makemigrations` send on Django 6.1.
    Every supported PostgreSQL has stored columns. Migrations name Django's own field."""

    def _check_supported(self, databases: Any) -> list[CheckMessage]:  # noqa: ARG002 - Django's signature
        return []

    def deconstruct(self) -> Any:
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.GeneratedField", args, kwargs


ACTIVE = Q(expires_at__gt=Now(), data__isnull=False)


class SessionQuerySet(models.QuerySet["Session"]):
    def active(self) -> SessionQuerySet:
        """Returns the sessions that have neither expired nor ended."""
        return self.filter(ACTIVE)

    def for_user(self, user: AbstractBaseUser) -> SessionQuerySet:
        """Returns the sessions in which `user` is logged in, the last used first."""
        return self.filter(user_id=user_id_of(user)).order_by(models.F("last_seen_at").desc(nulls_last=True))

    def for_key(self, session_key: str) -> SessionQuerySet:
        """Returns the session whose cookie has this key."""
        return self.filter(key_hash=hash_key(session_key).hex())

    def revoke(self) -> int:
        """Ends these sessions: their browsers are logged out at their next request. Returns how many. While a previous
        engine is set, the row stays without data until it would have expired, so that the session is not moved here
        again."""
        if settings().session_previous_engine:
            count = self.filter(data__isnull=False).update(data=None, user_id=None)
        else:
            # As Django's own writing methods do: otherwise `db` is the router's for reading.
            self._for_write = True
            # In one statement, without signals: where those have receivers, delete() reads the keys first, and a
            # login may change one in between.
            count = self.order_by()._raw_delete(self.db) or 0  # noqa: SLF001 - see above
        emit("sessions.revoked", f"Ended {count} sessions", count=count)
        return count


class Session(models.Model):
    """The session of one browser. Its key is in the cookie; the row has the hash of the key."""

    key_hash = DigestField(_("key hash"), primary_key=True, editable=False)
    # One member for each top-level key of the session, see sessions/codec.py. NULL: the session has ended, and the row
    # keeps it from being moved here again.
    data = JsonField(_("data"), null=True)
    # The text of any user model's primary key; no constraint, so that users come and go without locks here.
    user_id = models.TextField(_("user id"), null=True)  # noqa: DJ001 - NULL keeps visitors out of the index
    created_at = TimestampField(_("created at"), db_default=Now())
    # NULL: imported from another engine and not written here since.
    last_seen_at = TimestampField(_("last seen at"), null=True)
    expires_at = TimestampField(_("expires at"))
    # With an index on expires_at itself no update would be HOT; with one on its hour, all but one in an hour are.
    expires_hour = StoredGeneratedField(
        expression=Func(
            "expires_at",
            template="(floor(extract(epoch FROM (%(expressions)s AT TIME ZONE 'UTC')) / 3600))::integer",
            output_field=models.IntegerField(),
        ),
        output_field=models.IntegerField(),
        db_persist=True,
    )
    ip = models.GenericIPAddressField(_("IP address"), null=True)
    user_agent = models.TextField(_("user agent"), default="", db_default="")

    objects = SessionQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_session")
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        permissions = [("view_session_data", _("Can view the data inside sessions"))]
        indexes = [
            models.Index(fields=["user_id"], name="pgonly_session_user", condition=Q(user_id__isnull=False)),
            models.Index(fields=["expires_hour"], name="pgonly_session_expires"),
        ]

    def __str__(self) -> str:
        return f"{self.key_hash[:8]}…"
