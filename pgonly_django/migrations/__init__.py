"""Our tables. What comes after 0006 only adds, so that workers of the version before run on."""
