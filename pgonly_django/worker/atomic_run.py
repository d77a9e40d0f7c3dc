"""@task(atomic=True): the function and the finish of its job commit together, or neither does (promise 3)."""

from collections.abc import Callable

from django.db import connections, transaction

from pgonly_django.context.run import Run, renewing
from pgonly_django.exceptions import LeaseLost
from pgonly_django.queue.finish import Finish, finish_statements
from pgonly_django.queue.progress import LAST_REPORT, Report, report_parameters
from pgonly_django.worker import reports
from pgonly_django.worker.output import write_last

KEEPING_SNAPSHOTS = ("repeatable read", "serializable")


class AtomicRuns:
    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._isolation: str | None = None

    def run(self, run: Run, call: Callable[[], Finish]) -> Finish:
        """`call()` and the write of what it returns, in one transaction. Raises what `call` raises, or LeaseLost.

        A transaction that keeps the snapshot it began with can write a row only if no other has written it since.
        """
        if self._keeps_snapshots():
            with renewing:
                run.keeps_snapshot = True
        last: list[Report] = []
        try:
            with transaction.atomic(using=self.alias):
                finish = call()
                last += reports.last_report_of(run)
                self._write(run, finish, last)
        except BaseException:
            reports.put_back({run.job.id: run}, last)
            raise
        finally:
            run.keeps_snapshot = run.reports_itself = False
        return finish

    def _write(self, run: Run, finish: Finish, last: list[Report]) -> None:
        with connections[self.alias].cursor() as cursor:
            if last:
                cursor.execute(LAST_REPORT, report_parameters(last))
            write_last(self.alias, run, finish)
            cursor.execute(*finish_statements([finish])[0])
            if cursor.rowcount == 0:
                run.lease_lost = True
                raise LeaseLost

    def _keeps_snapshots(self) -> bool:
        """Whether Django's transactions are REPEATABLE READ or SERIALIZABLE, by OPTIONS, role or database."""
        if self._isolation is None:
            connection = connections[self.alias]
            with connection.cursor() as cursor:
                cursor.execute("SHOW default_transaction_isolation")
                (default,) = cursor.fetchone()
            chosen = connection.connection.isolation_level  # None: the default
            self._isolation = default if chosen is None else chosen.name.replace("_", " ").lower()
        return self._isolation in KEEPING_SNAPSHOTS
