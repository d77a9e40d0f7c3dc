from __future__ import annotations

from dataclasses import dataclass

from pgonly_django.context.run import Run
from pgonly_django.queue.finish import Finish


@dataclass(slots=True)
class Ended:
    """A run that is over in this process. `finish` None: the job is not ours any more, nothing is to be written."""

    run: Run
    finish: Finish | None
    took_seconds: float = 0.0
    committed: bool = False  # the finish went out with the job's own transaction (atomic=True)
    error: BaseException | None = None  # what the run ended with
