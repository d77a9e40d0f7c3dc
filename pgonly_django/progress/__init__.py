"""What the users of a site see of a job while it waits and runs: the tag `job_progress`, and its URLs."""
