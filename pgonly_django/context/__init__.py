"""The running job's side: what a task with `takes_context=True` gets, and what the worker and the job share of a run.

context            JobContext, the task's first argument: progress, checkpoint, steps, loops, stop
leaving            its part by which a job leaves its run: stop, and the waits for events and times
detached           the same methods without a job, for other task backends
calls              the calls of steps: how long they take, pauses after errors, what they cost
iteration          walking through items from a saved position on
checkpoint_state   what a run has reached, in memory and in its row, also after a rollback
transactions       statements that are repeated until the database is back
memory, output     what a run saves: steps, loops, the checkpoint; and what the job emits
unwritten          what of that the readers do not see yet
run                the state of one run that the worker and the context share; its interruption
"""
