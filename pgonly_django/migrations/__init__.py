"""Our tables. What comes after 0001 only adds, so that workers of the version before run on."""
