"""The running job's side: what a task with `takes_context=True` gets, and what the worker and the job share of a run.

context             JobContext, the task's first argument: progress, checkpoint, steps, loops, stop
detached            the same methods without a job, for other task backends
spending            what a step's call costs, and its budget
iteration           walking through items from a saved position on
checkpoint_state    what a run has reached, in memory and in its row
rollback_tracker    takes values in memory back when a transaction is rolled back
run                 the state of one run that the worker and the context share
interrupter         raises an exception in a running job
retry_while_down    repeats a statement until the database is back
"""
