"""What the maintenance thread does now and then. To add a duty, make a class of Duty (worker/maintenance.py) and a line
here; for rows that only have to be deleted, an entry of `PRUNES`.

What has to be done on time is done elsewhere: worker/loop.py has the timers of the main loop, and the heartbeat rescues
when it learns that some lease is over.
"""

from pgonly_django.worker.duties.budgets import SettleBudgets
from pgonly_django.worker.duties.dead_letters import SendDeadLetters
from pgonly_django.worker.duties.declare import Declare
from pgonly_django.worker.duties.pruning import pruning
from pgonly_django.worker.inbox import Tell
from pgonly_django.worker.maintenance import Duty


def duties(alias: str, tell: Tell = lambda _message: None) -> list[Duty]:
    """`tell` takes messages for the main loop."""
    return [SendDeadLetters(alias, tell), *pruning(alias), SettleBudgets(alias), Declare(alias)]
