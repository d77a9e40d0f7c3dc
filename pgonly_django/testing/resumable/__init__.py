"""assert_resumable(): kills a job at each of its saves, resumes it, and compares. See docs/how-to/testing.md.

The test's process copies the test databases (`databases.py`), starts a child process (`processes.py`), and compares
what the runs left behind (`rows.py`, `comparison.py`). The child imports the project (`child.py`) and runs the job,
each time in a process of its own (`one_run.py`), which is killed at the save that was chosen (`saves.py`).

This file imports nothing: the child imports it before Django is set up.
"""
