"""What the supervisor tells the log: one line for each event."""

from __future__ import annotations

import logging
from statistics import mean

from pgonly_django.events import emit
from pgonly_django.worker.memory import memory_of
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.supervisor.process import Process


def process_started(process: Process) -> None:
    message = f"{process} starts, {process.started.how}."
    emit("worker.process_started", message, worker=process.name, pid=process.pid, how=process.started.how)


def not_started(name: str, error: Exception, pause: float) -> None:
    message = f"{name} cannot be started, trying again in {pause:g} s: {error}"
    emit("worker.process_not_started", message, level=logging.ERROR, worker=name)


def process_ended(process: Process, ending: str, *, is_expected: bool) -> None:
    why = f", killed since {process.killed_for}" if process.killed_for else ""
    level = logging.INFO if is_expected else logging.WARNING
    message = f"{process} {ending}{why}."
    emit("worker.process_ended", message, level=level, worker=process.name, pid=process.pid, ending=ending)


def killed(process: Process) -> None:
    message = f"{process} is killed: {process.killed_for}."
    emit("worker.process_killed", message, level=logging.ERROR, worker=process.name, pid=process.pid)


def backing_off(name: str, failures: int, pause: float) -> None:
    message = (
        f"{name} starts again in {pause:g} s: {failures} time(s) in a row it ended soon after its start."
    )
    emit(
        "worker.process_backs_off",
        message,
        level=logging.WARNING,
        worker=name,
        failures=failures,
        pause=pause,
    )


def given_up(name: str, failures: int) -> None:
    message = f"{name} is not started again: {failures} times in a row it ended soon after its start."
    emit("worker.process_given_up", message, level=logging.ERROR, worker=name, failures=failures)


def retiring(process: Process) -> None:
    running = process.status.running if process.status is not None else 0
    what = f"finishes its {running} job(s) and ends" if running else "ends"
    message = f"{process} {what}, another one takes its place: {process.retires_for}."
    emit(
        "worker.process_retiring",
        message,
        worker=process.name,
        pid=process.pid,
        reason=process.retires_for,
    )


def stopping(processes: list[Process], grace: float) -> None:
    when = f"their jobs have {grace:g} s" if grace else "their jobs are released now"
    message = f"Stopping {len(processes)} process(es): {when}."
    emit("worker.processes_stopping", message, processes=len(processes), grace_seconds=grace)


def stopped(options: WorkerOptions, left: list[str]) -> None:
    if left:
        message = f"The jobs of {', '.join(left)} could not be taken back; they are rescued once their leases are over."
        emit("worker.jobs_left", message, level=logging.WARNING, workers=left)
    emit("worker.processes_stopped", "All processes have ended.", worker=options.name)


def memory(processes: list[Process]) -> None:
    """The mean over all processes, once they are ready."""
    found = [each for each in (memory_of(process.pid) for process in processes) if each is not None]
    if not found:
        return
    rss = mean(each.rss for each in found)
    text = f"{len(found)} processes are ready. Memory of each: {rss:.0f} MB (Rss)"
    own = [each.own for each in found if each.own is not None]
    pss = [each.pss for each in found if each.pss is not None]
    if own and pss:
        text += f", of which {rss - mean(own):.0f} MB are shared and {mean(own):.0f} MB its own"
        text += f"; {mean(pss):.0f} MB (Pss) with its part of what is shared"
    emit("worker.processes_ready", f"{text}.", processes=len(found), rss_mb=rss)
