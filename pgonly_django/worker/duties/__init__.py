"""What a worker does now and then. Each duty is one file with one class, whose `run_once()` does it once and returns
how many rows it changed. Any number of workers may do it at once: rows that are locked are skipped.

Where it runs depends on when it has to:

* every `interval` seconds, or sooner while there is something to do: in a thread, worker/maintenance.py. To add such a
  duty, write its file here and its line in duties() there.
* at `next_run`, on the connection that claims: promotion, cancel requests; see WorkerLoop.
* when a heartbeat learns that some lease is over: rescue; see worker/heartbeat.py.
"""
