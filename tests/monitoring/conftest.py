from tests.worker.conftest import background_worker, work
from tests.worker.tick.conftest import tick

__all__ = ["background_worker", "tick", "work"]
