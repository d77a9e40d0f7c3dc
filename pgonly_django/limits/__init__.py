"""Limits of what jobs, and all other code, may do and spend: limiters and budgets, which all processes share.

limiter               limiter(): a limiter by its name
admission             one caller's way in and out, over limiter_statements
declarations          PGONLY["LIMITERS"]
budget                budget(): a budget by its name; reserve, settle, release, over budget_statements
budget_settings       PGONLY["BUDGETS"]: validated, and its patterns
declared_rows         whose declaration stands, for the rows of both
expiry                reservations of dead processes count as spent; jobs continue where a budget has room again
plugin                what of both the worker and the job context use
pool_user, renewal    connections and leases, for both
"""
