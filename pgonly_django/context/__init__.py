"""The running job's side: what a task with `takes_context=True` gets, and how the worker reaches into a run."""
