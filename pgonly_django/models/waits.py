"""What jobs wait for, and the events that answer them. ARCHITECTURE.md, "When you change a column", names the other
files that know the columns."""

from __future__ import annotations

import re
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, ExpressionWrapper, F, Func, OuterRef, Q, Value
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.checkpoint import STEP_NAME_LENGTH
from pgonly_django.models.job import ClockTimestamp, Job, State
from pgonly_django.models.readable import JsonField, TimestampField
from pgonly_django.tables import table

WITH_JOB = "job", "name", "key", "question", "choices", "began_at", "until", "job__task", "job__queue"
EVENT_KEY_LENGTH = 240  # with "event " before it, it is the name of a step


class EventKeyField(models.CharField):  # type: ignore[type-arg] # Django's own CharField takes no parameters
    """A CharField of which Django makes one index, and none for LIKE."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:  # noqa: ARG002 - Django's signature
        return f"character varying({self.max_length})"


class Event(models.Model):
    """The durable answer to a key. The first one counts, and every job that waits for the key gets it."""

    key: models.CharField[str, str] = EventKeyField(primary_key=True, max_length=EVENT_KEY_LENGTH)
    payload = JsonField(null=True, help_text=_("What the jobs get that wait for it."))
    sent_at = TimestampField(db_default=ClockTimestamp())
    expires_at = TimestampField(help_text=_("After this it is deleted, unless a job waits for it."))
    is_delivered = models.BooleanField(
        default=False, db_default=False, help_text=_("The jobs that waited for it have been woken.")
    )
    is_choice = models.BooleanField(
        default=False, db_default=False, help_text=_("A person has chosen it among the choices of a wait.")
    )

    class Meta:
        db_table = table("pgonly_event")
        verbose_name = _("event")
        indexes = [
            models.Index("sent_at", condition=Q(is_delivered=False), name="pgonly_event_undelivered"),
            models.Index("expires_at", name="pgonly_event_expires"),
        ]

    def __str__(self) -> str:
        return self.key


# The key under which gather() waits: end_of() of queue/batches.py.
KEY_OF_BATCH = r"^batch ([0-9a-f-]{36}) [0-9]+$"
# What a person may answer: the rows of pgonly_wait_asked.
FOR_PEOPLE = Q(key__isnull=False) & ~Q(question="", choices=[])


# Whether a payload answers a wait: a text does not where it is none of the choices. See with_answers().
FITS = """({wait}.choices = '[]' OR jsonb_typeof({event}.payload) IS DISTINCT FROM 'string'
        OR {wait}.choices @> {event}.payload)"""
IS_WAITING = Q(job__state__in=[State.SCHEDULED, State.HELD, State.RUNNING], lease_epoch=F("job__lease_epoch"))


class WaitQuerySet(models.QuerySet["Wait"]):
    def asked(self) -> WaitQuerySet:
        """Returns the waits without an answer which the jobs have in their current run or come to in their next one,
        and, with `runs_again`, those of jobs that run again: nobody knows yet whether they come to them. Waits for a
        batch, whose end only its jobs can tell, are none of them. A key may be answered for the jobs that offer that
        choice, and still be asked by others."""
        of_run = Wait.objects.filter(job=OuterRef("job"), lease_epoch=OuterRef("job__lease_epoch"))
        is_ahead = Q(job__state__in=[State.READY, State.SCHEDULED, State.HELD]) & ~Exists(of_run)
        is_woken = Q(job__state=State.READY, lease_epoch=F("job__lease_epoch"))
        runs_again = Q(job__state=State.RUNNING, lease_epoch__lt=F("job__lease_epoch"))
        waits: Any = self.filter(IS_WAITING | is_woken | is_ahead | runs_again).exclude(
            key__regex=KEY_OF_BATCH
        )
        waits = waits.annotate(runs_again=ExpressionWrapper(runs_again, models.BooleanField()))
        asked: WaitQuerySet = waits.with_answers().filter(is_answered=False)
        return asked

    def answerable(self) -> WaitQuerySet:
        """Returns the waits that are known to be heard."""
        asked: Any = self.asked()
        answerable: WaitQuerySet = asked.filter(runs_again=False)
        return answerable

    def current(self) -> WaitQuerySet:
        """Returns what jobs wait for now, with `is_answered`: the event is there, and the job about to run."""
        return self.filter(IS_WAITING).with_answers()

    def with_answers(self) -> WaitQuerySet:
        """Adds `is_answered`."""
        offered = ExpressionWrapper(OuterRef("choices"), output_field=JsonField())
        kind = Coalesce(Func("payload", function="jsonb_typeof"), Value(""), output_field=models.TextField())
        events = Event.objects.filter(key=OuterRef("key")).alias(offered=offered, kind=kind)
        fits = Q(offered=[]) | ~Q(kind="string") | Q(offered__contains=F("payload"))
        return self.annotate(is_answered=Exists(events.filter(fits)))

    def open(self) -> WaitQuerySet:
        """Returns the waits without an answer."""
        current: Any = self.current()
        open_ones: WaitQuerySet = current.filter(is_answered=False)
        return open_ones

    def for_people(self) -> WaitQuerySet:
        """Returns the waits that have a question or choices."""
        return self.filter(FOR_PEOPLE)

    def with_jobs(self) -> WaitQuerySet:
        """Reads what names the job of each wait, too."""
        return self.select_related("job").only(*WITH_JOB)


class Wait(models.Model):
    """What a job waits for: an event or a time. The row is deleted when the answer is stored as a step. The job waits
    while its lease_epoch is the one here, and it is scheduled, held or still running."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, models.CASCADE, related_name="waits", db_index=False)
    name = models.CharField(max_length=STEP_NAME_LENGTH, help_text=_("The step that keeps the answer."))
    key = models.CharField(  # noqa: DJ001 - NULL keeps the row out of the index
        max_length=EVENT_KEY_LENGTH,
        null=True,
        help_text=_("The key of the event; empty: it waits for a time."),
    )
    until = TimestampField(null=True, help_text=_("The deadline; empty: none."))
    began_at = TimestampField(db_default=ClockTimestamp())
    lease_epoch = models.IntegerField(help_text=_("The run of the job that waits."))
    choices = JsonField(of=[str], default=list, help_text=_("The answers that a person may choose from."))
    question = models.TextField(blank=True, default="", help_text=_("What a person is asked."))
    kept_key = models.CharField(  # noqa: DJ001 - as key
        max_length=255, null=True, help_text=_("The concurrency key that its job keeps; empty: none.")
    )

    objects = WaitQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_wait")
        verbose_name = _("wait")
        verbose_name_plural = _("waiting for people")
        indexes = [
            models.Index("key", condition=Q(key__isnull=False), name="pgonly_wait_key"),
            # For the admin: what people are asked, the oldest question first.
            models.Index("began_at", condition=FOR_PEOPLE, name="pgonly_wait_asked"),
            models.Index("kept_key", condition=Q(kept_key__isnull=False), name="pgonly_wait_kept"),
        ]
        constraints = [models.UniqueConstraint("job", "name", name="pgonly_wait_once")]

    def __str__(self) -> str:
        return self.question or self.name

    @property
    def batch_id(self) -> str | None:
        """The batch of the gather() that waits for its jobs."""
        found = re.match(KEY_OF_BATCH, self.key or "")
        return found and found[1]
