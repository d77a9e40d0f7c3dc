"""Schedules, their ticks, and the verbs that people use on them; the code of workers is in scheduling/.
ARCHITECTURE.md, "When you change a column", names the other files that know the columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django.db import DEFAULT_DB_ALIAS, models, router, transaction
from django.db.models import Case, F, Q, Value, When
from django.utils.translation import gettext_lazy as _

from pgonly_django.database import notify
from pgonly_django.models.declared import NAME_LENGTH, Declared, DeclaredQuerySet
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.job_rows import json_is
from pgonly_django.models.readable import JsonField, NumberField, TimestampField
from pgonly_django.tables import table

# next_at of a schedule whose next tick is to be computed: long past, so that a look for due ones finds it.
UNPLANNED = datetime(1970, 1, 1, tzinfo=UTC)
TIMING = ("cron", "timezone", "every_seconds")
OF_WORKERS = ("next_at", "last_tick_at", "problem")
NOTED = ("name", *TIMING, *OF_WORKERS)
SHORTEST_SECONDS = 0.1
CONFIRM_EVERY = timedelta(hours=1)  # a database may sleep between two due times


class CatchUp(models.TextChoices):
    """Which of the ticks run that passed while no worker ran."""

    LATEST = "latest", _("Run the latest one")
    ALL = "all", _("Run all of them")
    NONE = "none", _("Run none of them")


class Overlap(models.TextChoices):
    """What a tick does while an earlier run is unfinished."""

    SKIP = "skip", _("Skip the tick")
    ALLOW = "allow", _("Run side by side")
    REPLACE = "replace", _("Cancel the earlier run")


class ScheduleQuerySet(DeclaredQuerySet):
    """The verbs return how many rows they changed, and tell the workers in the same transaction."""

    stale_after = 3 * CONFIRM_EVERY

    def pause(self) -> int:
        """Stops the ticks until resume()."""
        return self._changed(self.filter(paused_at=None).update(paused_at=ClockTimestamp()))

    def resume(self) -> int:
        """Starts the ticks again. Ticks that passed during the pause do not run."""
        paused = self.filter(paused_at__isnull=False)
        return self._changed(paused.update(paused_at=None, next_at=UNPLANNED))

    def edit(self, **values: Any) -> int:
        return self._changed(super().edit(**values))

    def reset(self) -> int:
        return self._changed(super().reset())

    def declare(self, declarations: Mapping[str, Mapping[str, Any]]) -> int:
        return self._changed(super().declare(declarations))

    def follow_from(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Computes the next tick again where the timing has changed. The same timing keeps a tick that is overdue."""
        known = {column: values[column] for column in TIMING if column in values}
        if not known:
            return {"problem": None}
        same = Q(**{f"{column}__isnull": True for column, value in known.items() if value is None})
        same &= Q(**{column: value for column, value in known.items() if value is not None})
        return {"next_at": Case(When(same, then=F("next_at")), default=Value(UNPLANNED)), "problem": None}

    def delete(self) -> tuple[int, dict[str, int]]:
        """Deletes the schedules with their ticks. Waits until the ticks that are being enqueued have their rows."""
        self._for_write = True
        with transaction.atomic(using=self.db):
            locked = [row.pk for row in lock(self.db, list(self.values_list("pk", flat=True)))]
            # Not a schedule that matches only since then: its tick may be at work.
            deleted = super(ScheduleQuerySet, self.filter(pk__in=locked)).delete()
            self._result_cache = None  # as Django's own
            return deleted

    delete.alters_data = True  # type: ignore[attr-defined]  # as Django's own: no method of the manager
    delete.queryset_only = True  # type: ignore[attr-defined]

    def _changed(self, count: int) -> int:
        if count:
            # As Django's own writing methods do: otherwise `db` is the router's for reading.
            self._for_write = True
            notify.send_at_commit(self.db, notify.SCHEDULES)
        return count


def lock(alias: str, names: Sequence[str]) -> list[Schedule]:
    """Waits for transactions that have locked these schedules, and keeps others away until this transaction ends.
    Returns the schedules that are there then."""
    return list(Schedule.objects.using(alias).filter(pk__in=names).order_by("pk").select_for_update())


class Schedule(Declared):
    """Enqueues a task at the times of a cron line, or after every interval."""

    task = models.CharField(max_length=255, help_text=_("The dotted path of the task."))
    args = JsonField(of=list, default=list, blank=True)
    kwargs = JsonField(of=dict, default=dict, blank=True)
    queue = models.CharField(max_length=64, null=True, blank=True, help_text=_("Empty: the task's own."))  # noqa: DJ001 - NULL is "none given"
    priority = models.SmallIntegerField(null=True, blank=True, help_text=_("Empty: the task's own."))
    cron = models.CharField(  # noqa: DJ001 - either cron or every_seconds is NULL
        max_length=255,
        null=True,
        blank=True,
        help_text=_('Such as "0 3 * * *": minute hour day month weekday.'),
    )
    timezone = models.CharField(max_length=64, default="UTC", help_text=_("The time zone of the cron line."))
    every_seconds = NumberField(null=True, blank=True, help_text=_("Instead of a cron line."))
    catch_up = models.CharField(
        max_length=16,
        choices=CatchUp,
        default=CatchUp.LATEST,
        help_text=_("Which of the ticks run that passed while no worker ran."),
    )
    overlap = models.CharField(
        max_length=16,
        choices=Overlap,
        default=Overlap.SKIP,
        help_text=_("What a tick does while an earlier run is unfinished."),
    )
    budget = models.CharField(  # noqa: DJ001 - as queue
        max_length=255, null=True, blank=True, help_text=_("The budget that pays for its jobs.")
    )
    metadata = JsonField(
        of=dict, null=True, blank=True, help_text=_("The metadata of its jobs: a JSON object.")
    )

    paused_at = TimestampField(null=True, editable=False)
    next_at = TimestampField(
        null=True, default=UNPLANNED, editable=False, help_text=_("Its next tick; empty: none.")
    )
    last_tick_at = TimestampField(null=True, editable=False)
    created_at = TimestampField(db_default=ClockTimestamp(), editable=False)
    declared_at = TimestampField(
        null=True, editable=False, help_text=_("When a worker last found it in its code.")
    )
    problem = models.TextField(  # noqa: DJ001 - as queue
        null=True, editable=False, help_text=_("Why its last tick could not be enqueued.")
    )

    objects: ClassVar[Any] = ScheduleQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_schedule")
        verbose_name = _("schedule")
        permissions = [("operate_schedule", _("Can pause, resume and run schedules"))]
        indexes = [models.Index("next_at", condition=Q(paused_at=None), name="pgonly_schedule_due")]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    cron__isnull=True, every_seconds__isnull=False, every_seconds__gte=SHORTEST_SECONDS
                )
                | Q(cron__isnull=False, every_seconds__isnull=True),
                name="pgonly_schedule_has_one_timing",
            ),
            models.CheckConstraint(
                condition=json_is("array", "args") & json_is("object", "kwargs"), name="pgonly_schedule_json"
            ),
        ]

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Schedule:
        row = super().from_db(*args, **kwargs)
        row._note(NOTED)  # noqa: SLF001 - its own
        return row

    def refresh_from_db(
        self, using: str | None = None, fields: Iterable[str] | None = None, from_queryset: Any = None
    ) -> None:
        """See Model.refresh_from_db(). Django also calls it to load a deferred column."""
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using, fields, from_queryset)
        self._note(NOTED if fields is None else {*NOTED} & {*fields})

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Computes the next tick again where the timing has changed. Leaves alone what workers write, unless the caller
        has set it: the row may have ticked since it was read. Raises DatabaseError where it was read and is deleted by
        now. Tells the workers in the same transaction."""
        changed = {column for column in NOTED if vars(self).get(column) != self._noted.get(column)}
        is_known = self._noted.get("name") == self.name and not self._state.adding
        is_known = is_known and kwargs.get("using") in (None, self._state.db)
        if self._noted and changed & {*TIMING}:
            self.next_at = UNPLANNED
            changed.add("next_at")
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "next_at"}
        is_plain = not args and not kwargs.get("force_insert") and kwargs.get("update_fields") is None
        if is_known and is_plain:
            columns = {each.name for each in self._meta.concrete_fields if each.attname in vars(self)}
            kwargs["update_fields"] = columns - {"name"} - ({*OF_WORKERS} - changed)
        super().save(*args, **kwargs)
        self._note(NOTED)
        notify.send_at_commit(self._state.db or DEFAULT_DB_ALIAS, notify.SCHEDULES)

    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Deletes the schedule with its ticks. See ScheduleQuerySet.delete()."""
        using = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            lock(using, [self.pk])
            return super().delete(using, keep_parents)

    # What was read or saved of NOTED.
    _noted: Mapping[str, Any] = {}

    def _note(self, columns: Iterable[str]) -> None:
        """Notes the columns as they stand here, without loading deferred ones."""
        self._noted = {**self._noted, **{column: vars(self).get(column) for column in columns}}

    @property
    def is_planned(self) -> bool:
        return self.next_at is not None and self.next_at.year > UNPLANNED.year


class TickOutcome(models.TextChoices):
    ENQUEUED = "enqueued", _("Enqueued")
    SKIPPED = "skipped", _("Skipped")


class Tick(models.Model):
    """One time at which a schedule was due, or a person ran it. However many workers see it, it has one row."""

    schedule = models.ForeignKey(Schedule, models.CASCADE, related_name="ticks", db_index=False)
    tick_at = TimestampField(help_text=_("When it was due."))
    at = TimestampField(db_default=ClockTimestamp(), help_text=_("When a worker handled it."))
    outcome = models.CharField(max_length=16, choices=TickOutcome, default=TickOutcome.ENQUEUED)
    reason = models.CharField(max_length=NAME_LENGTH, default="", help_text=_("Why it was skipped."))
    job_id = models.UUIDField(null=True, help_text=_("Its job, which may have been pruned."))
    by_person = models.BooleanField(default=False)

    class Meta:
        db_table = table("pgonly_tick")
        verbose_name = _("tick")
        constraints = [models.UniqueConstraint("schedule", "tick_at", name="pgonly_tick_once")]

    def __str__(self) -> str:
        return f"{self.schedule_id} {self.tick_at}"
