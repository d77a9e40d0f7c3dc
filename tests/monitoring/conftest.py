from tests.worker.conftest import background_worker, work

__all__ = ["background_worker", "work"]
