"""assert_resumable(): kills a job at each place, resumes it, and compares. See docs/how-to/testing.md.

`assertion.py` has the call and checks its arguments. `rounds.py` runs the job, kills it and resumes it, in the test's
process and inside one transaction, which is rolled back to its start after each round. `watch.py` counts the places
and raises the exception that stands for the kill. `rows.py` reads what a round has left, and `comparison.py` says what
differs.
"""
