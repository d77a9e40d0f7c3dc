"""A job's life in SQL, without processes: each module is one step of it, or one duty of the workers."""
