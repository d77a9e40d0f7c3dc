"""Budgets, what is reserved of them, and the cost of each call. The statements that spend are in limits/.
ARCHITECTURE.md, "When you change a column", names the other files that know the columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.db import models, router, transaction
from django.db.models import Case, Count, F, Q, Sum, Value, When
from django.db.models.expressions import RawSQL
from django.utils.translation import gettext_lazy as _

from pgonly_django import amounts
from pgonly_django.database import wake_urls
from pgonly_django.exceptions import BudgetError
from pgonly_django.models.declared import NAME_LENGTH, Declared, DeclaredQuerySet
from pgonly_django.models.job import ClockTimestamp, Job
from pgonly_django.models.readable import AmountField, TimestampField
from pgonly_django.tables import table

HELD_BY = "budget:"  # and the name of the budget: Job.held_by
MONEY: dict[str, Any] = {"max_digits": 18, "decimal_places": 6}
TIME_ZONE_LENGTH = 64

# When the present period of the budget `b` began; NULL without one. All of a statement sees the same moment.
PERIOD = "date_trunc(b.per, statement_timestamp(), b.timezone)"
# When the next period begins. Hours have no date: the clock may be set back in one.
NEXT_PERIOD = f"""CASE b.per WHEN 'hour' THEN {PERIOD} + interval '1 hour'
    ELSE (({PERIOD}) AT TIME ZONE b.timezone + ('1 ' || b.per)::interval) AT TIME ZONE b.timezone END"""
# What is spent in the present period.
SPENT = f"CASE WHEN b.period_start < {PERIOD} THEN 0 ELSE b.spent END"
# For SET, beside `spent`. A statement that began before midnight may come after a statement that began later.
PERIOD_START = f"greatest(b.period_start, {PERIOD})"


class Per(models.TextChoices):
    """The period after which a budget begins again."""

    HOUR = "hour", _("Hour")
    DAY = "day", _("Day")
    WEEK = "week", _("Week")
    MONTH = "month", _("Month")
    YEAR = "year", _("Year")


class BudgetQuerySet(DeclaredQuerySet):
    def with_spent_now(self) -> BudgetQuerySet:
        """Adds `spent_now` to each: what is spent in the present period. `spent` may still be that of an earlier
        one."""
        text = SPENT.replace("b.", "")  # the ORM does not name the table so
        spent = RawSQL(text, [], output_field=AmountField(**MONEY))  # noqa: S611 - our own text
        annotated: BudgetQuerySet = self.annotate(spent_now=spent)
        return annotated

    def follow_from(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Lets the jobs that a budget holds continue where its cap grows."""
        if "usd" not in values:
            return {}
        is_higher = When(usd__lt=values["usd"], then=ClockTimestamp())
        field = TimestampField()
        return {"resumed_at": Case(is_higher, default=F("resumed_at"), output_field=field)}

    def edit(self, **values: Any) -> int:
        """Sets columns for a person. No declaration overwrites them from now on. Returns how many rows. Workers that
        sleep are woken: jobs that a budget holds may continue."""
        return self._wake(super().edit(**values))

    def reset(self) -> int:
        """Undoes edit(): the rows say what the code declares. Returns how many rows changed. Workers are woken."""
        return self._wake(super().reset())

    def raise_cap(self, usd: amounts.Amount) -> int:
        """Sets a higher cap, and lets the jobs that these budgets hold continue, in one transaction: "raise and
        resume". Returns how many jobs were resumed. Raises BudgetError where a cap is as high already.

        Inside an open atomic() the rows of these budgets stay locked until you commit. Until then a job that reserves
        waits, other code gets LimitsUnavailableError after five seconds, and what is settled is settled after your
        commit. Other budgets and all limiters are not concerned."""
        cap = amounts.usd(usd, "The new cap of a budget")
        self._for_write = True
        with transaction.atomic(using=self.db):
            higher = self.filter(usd__gte=cap).order_by("name").values_list("name", "usd").first()
            if higher is not None:
                name, present = higher
                raise BudgetError(
                    f"The cap of budget {name!r} is {amounts.shown(present)} already, not below {amounts.shown(cap)}."
                )
            self.edit(usd=cap)
            return self.resume()

    def resume(self) -> int:
        """Lets the jobs that these budgets hold continue. Returns how many. A job is held again if there is still no
        room for what it needs next."""
        self._for_write = True
        with transaction.atomic(using=self.db):
            names = list(self.values_list("name", flat=True))
            self.filter(name__in=names).update(resumed_at=ClockTimestamp())
            held_by = [f"{HELD_BY}{name}" for name in names]
            # As a rule the same database, so it is one transaction.
            jobs = Job.objects.using(router.db_for_write(Job))
            return jobs.filter(held_by__in=held_by).resume()

    def start_over(self) -> int:
        """Sets what is spent to zero. What is reserved stays reserved. Returns the number of budgets."""
        return self._wake(self.update(spent=0, resumed_at=ClockTimestamp()))

    def _wake(self, count: int) -> int:
        """Wakes workers that sleep. The others look by themselves."""
        self._for_write = True
        if count:
            wake_urls.post_after_commit(self.db)
        return count


class Budget(Declared):
    """The amount that may be spent under a name, in total or in each period."""

    usd = AmountField(_("cap in USD"), **MONEY, help_text=_("Spent plus reserved never exceed it."))
    per = models.CharField(  # noqa: DJ001 - NULL makes PERIOD null
        max_length=8, null=True, blank=True, choices=Per, help_text=_("Empty: the cap is for all time.")
    )
    timezone = models.CharField(
        max_length=TIME_ZONE_LENGTH,
        default="UTC",
        help_text=_("The period begins at its midnight."),
    )
    spent = AmountField(**MONEY, default=0, db_default=0, editable=False)
    reserved = AmountField(
        **MONEY,
        default=0,
        db_default=0,
        editable=False,
        help_text=_("Reserved by calls under way."),
    )
    period_start = TimestampField(null=True, editable=False, help_text=_("When the period of `spent` began."))
    # Held jobs of the budget whose run began before this time continue.
    resumed_at = TimestampField(null=True, editable=False)

    objects: ClassVar[Any] = BudgetQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_budget")
        verbose_name = _("budget")
        permissions = [("operate_budget", _("Can change caps, and resume what budgets hold"))]
        constraints = [
            models.CheckConstraint(
                condition=Q(per__isnull=True) | Q(per__in=["hour", "day", "week", "month", "year"]),
                name="pgonly_budget_per",
            ),
            models.CheckConstraint(condition=Q(usd__gte=0), name="pgonly_budget_usd"),
        ]


class Reservation(models.Model):
    """The highest cost of a call that is under way. When its lease ends it counts as spent, since the call may have
    been paid."""

    id = models.UUIDField(primary_key=True)
    budget = models.CharField(max_length=NAME_LENGTH)
    usd = AmountField(**MONEY)
    job_id = models.UUIDField(null=True)
    task = models.CharField(max_length=255, default="", db_default="")
    queue = models.CharField(max_length=64, default="", db_default="")
    step = models.CharField(max_length=255, default="", db_default="")
    made_at = TimestampField(db_default=ClockTimestamp())
    expires_at = TimestampField()
    is_expired = models.BooleanField(default=False, db_default=False)

    class Meta:
        db_table = table("pgonly_reservation")
        verbose_name = _("reservation")
        indexes = [models.Index("is_expired", "expires_at", name="pgonly_reservation_expiry")]

    def __str__(self) -> str:
        return f"{self.usd} USD of {self.budget}"


class CostQuerySet(models.QuerySet[Any]):
    def sums(self, *columns: str) -> CostQuerySet:
        """Returns the sums of each group by `columns`, such as "model", "task", "queue" or "budget", the dearest first:
        `usd_sum`, `tokens_in_sum`, `tokens_out_sum` and `calls`."""
        sums = {"usd_sum": Sum("usd"), "calls": Count("id")}
        sums |= {f"{name}_sum": Sum(name, default=Value(0)) for name in ("tokens_in", "tokens_out")}
        grouped: CostQuerySet = self.values(*columns).annotate(**sums).order_by("-usd_sum")
        return grouped


class CostEntry(models.Model):
    """The cost of one call. Its job may have been pruned since."""

    id = models.BigAutoField(primary_key=True)
    at = TimestampField(db_default=ClockTimestamp())
    job_id = models.UUIDField(null=True)
    task = models.CharField(max_length=255, default="", db_default="")
    queue = models.CharField(max_length=64, default="", db_default="")
    budget = models.CharField(max_length=NAME_LENGTH, default="", db_default="")
    step = models.CharField(max_length=255, default="", db_default="")
    usd = AmountField(**MONEY)
    tokens_in = models.BigIntegerField(null=True)
    tokens_out = models.BigIntegerField(null=True)
    model = models.CharField(
        max_length=amounts.MODEL_LENGTH,
        default="",
        db_default="",
        help_text=_("Of a language model: its name."),
    )
    is_estimate = models.BooleanField(
        default=False, db_default=False, help_text=_("The reserved amount: the call never said what it cost.")
    )
    # One row for each, however often its cost is written.
    reservation = models.UUIDField(null=True)

    objects = CostQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_cost")
        verbose_name = _("cost")
        verbose_name_plural = _("costs")
        constraints = [
            models.UniqueConstraint(
                "reservation", condition=Q(reservation__isnull=False), name="pgonly_cost_reservation"
            )
        ]
        indexes = [
            # For pruning and for sums of a time. The sum of the running month reads no row of the table.
            models.Index("at", name="pgonly_cost_at", include=["usd"]),
            # For a budget's page.
            models.Index("budget", "at", condition=~Q(budget=""), name="pgonly_cost_budget"),
            # For a job's page.
            models.Index("job_id", condition=Q(job_id__isnull=False), name="pgonly_cost_job"),
        ]

    def __str__(self) -> str:
        return f"{amounts.shown(self.usd)} for {self.task.rpartition('.')[2] or self.budget}"
