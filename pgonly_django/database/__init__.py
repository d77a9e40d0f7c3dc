"""The driver: everything below SQL, for queue, cache and sessions alike. It knows no table."""
