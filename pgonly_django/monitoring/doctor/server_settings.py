"""Settings of PostgreSQL that change what our statements and your jobs do, as this role has them in this database.

The connections that workers and caches open set what they need. Those of Django, on which sites enqueue and jobs run,
keep what the role, the database, the server or OPTIONS say; behind a pooler so do most of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections, transaction
from psycopg import IsolationLevel

from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.reading import is_direct
from pgonly_django.monitoring.doctor.words import identifier
from pgonly_django.wording import duration

# Limits below these end what a healthy job does; above them they are shown only.
SHORT_SECONDS = {
    "statement_timeout": 5,
    "lock_timeout": 1,
    "idle_in_transaction_session_timeout": 60,
    "transaction_timeout": 600,
}
FOUND = """
SELECT name, setting, unit, source, current_user::text, current_database()::text FROM pg_settings
WHERE name = ANY (%(names)s) ORDER BY name
"""
WHAT_IT_DOES = {
    "statement_timeout": "cancels each statement of a job, and of an enqueue, that takes longer",
    "lock_timeout": "cancels statements that wait longer for a row that another transaction writes",
    "idle_in_transaction_session_timeout": "ends a job that waits longer, inside a transaction, for something else",
    "transaction_timeout": "ends each transaction that takes longer: jobs with atomic=True run in one",
}


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    value: str
    unit: str | None
    source: str
    role: str
    database: str

    @property
    def seconds(self) -> float:
        return float(self.value) / 1000  # all of SHORT_SECONDS are in ms

    def finding(self, id_: str, level: Level, why: str, wanted: str) -> Finding:
        shown = duration(self.seconds) if self.name in SHORT_SECONDS else self.value
        return Finding(
            id=id_,
            level=level,
            fact=f"{self.name} is {shown} for the role {self.role} ({SOURCES.get(self.source, self.source)}): {why}.",
            advice=self._advice(wanted),
            data={"name": self.name, "value": self.value, "unit": self.unit, "source": self.source},
        )

    def _advice(self, wanted: str) -> str:
        """To change it for this role alone, where that would win."""
        if self.source in ("client", "session"):
            return f'Take {self.name} out of OPTIONS["options"] in DATABASES (or out of PGOPTIONS).'
        role, database = identifier(self.role), identifier(self.database)
        where = f" IN DATABASE {database}" if self.source == "database user" else ""
        begin = (
            "SET default_transaction_read_only = off; "
            if self.name == "default_transaction_read_only"
            else ""
        )
        return f"{begin}ALTER ROLE {role}{where} SET {self.name} = {wanted}; and connect again."


SOURCES = {
    "client": "by OPTIONS or PGOPTIONS", "session": "by the session", "user": "by ALTER ROLE",
    "database": "by ALTER DATABASE", "database user": "by ALTER ROLE ... IN DATABASE",
    "configuration file": "by the server's configuration", "default": "by default",
}  # fmt: skip
SERIALIZED = "writes of jobs and unique enqueues that meet another one fail with a serialization error"
SAFE_COMMIT = ("on", "remote_apply", "remote_write", "local")


def _limit(id_: str) -> Callable[[Setting], Iterator[Finding]]:
    def judge(setting: Setting) -> Iterator[Finding]:
        if setting.seconds > 0:
            level = Level.WARNING if setting.seconds < SHORT_SECONDS[setting.name] else Level.INFO
            yield setting.finding(id_, level, f"it {WHAT_IT_DOES[setting.name]}", "0")

    return judge


def _commit(setting: Setting) -> Iterator[Finding]:
    if setting.value not in SAFE_COMMIT:
        why = "a crash of the server loses jobs whose enqueue was acknowledged within the last second"
        yield setting.finding("D135", Level.WARNING, why, "on")
    elif setting.value == "remote_apply":
        why = "each enqueue and each end of a job waits until standbys have applied it"
        yield setting.finding("D135", Level.INFO, why, "on")


def _isolation(setting: Setting) -> Iterator[Finding]:
    if setting.value in ("repeatable read", "serializable"):
        yield setting.finding("D136", Level.WARNING, SERIALIZED, "'read committed'")


def _read_only(setting: Setting) -> Iterator[Finding]:
    if setting.value == "on":
        yield setting.finding("D137", Level.ERROR, "nothing can be enqueued, and no job can write", "off")


JUDGES = {
    "statement_timeout": _limit("D131"),
    "idle_in_transaction_session_timeout": _limit("D132"),
    "lock_timeout": _limit("D133"),
    "transaction_timeout": _limit("D134"),
    "synchronous_commit": _commit,
    "default_transaction_isolation": _isolation,
    "default_transaction_read_only": _read_only,
}
# What workers set on connections of theirs, and cannot behind a pooler.
PLANS = {
    "jit": ("off", "claims of many rows may be compiled first, which takes longer than they do"),
    "plan_cache_mode": ("auto", "claims are planned each time, or by a plan for another size of the table"),
}


def examine_settings(alias: str) -> Iterator[Finding]:
    """D131 to D137, one for each setting."""
    for setting in _read(alias, list(JUDGES)):
        yield from JUDGES[setting.name](setting)


def examine_plans(alias: str) -> Iterator[Finding]:
    """D138: settings of the planner, behind a pooler."""
    for setting in () if is_direct(alias) else _read(alias, list(PLANS)):
        wanted, why = PLANS[setting.name]
        if setting.value != wanted:
            yield setting.finding("D138", Level.INFO, f"behind a pooler {why}", wanted)


def examine_isolation_option(alias: str) -> Iterator[Finding]:
    """D136 again: as DATABASES sets it for the transactions of Django alone."""
    level: Any = connections[alias].settings_dict["OPTIONS"].get("isolation_level")
    if level is not None and level != IsolationLevel.READ_COMMITTED:
        name = IsolationLevel(level).name.replace("_", " ").lower()
        yield Finding(
            id="D136",
            level=Level.WARNING,
            fact=f'OPTIONS["isolation_level"] of DATABASES[{alias!r}] is {name}: {SERIALIZED}.',
            advice="Take it out, or give jobs and sessions an alias of their own without it.",
            data={"name": "isolation_level", "value": name, "source": "OPTIONS"},
        )


def _read(alias: str, names: list[str]) -> list[Setting]:
    """Not by reading(), which sets one of them."""
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(FOUND, {"names": names})
        return [Setting(*row) for row in cursor.fetchall()]
