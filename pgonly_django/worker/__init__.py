"""The processes that run jobs: `runworker`, its threads and supervisor, and the tick. Their SQL is in queue/."""
