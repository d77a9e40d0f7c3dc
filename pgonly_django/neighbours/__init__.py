"""Other packages that read, cache or copy what is in our tables: how they leave them alone, or a check that says so."""
