"""Limits of what jobs, and everything else, may do and spend: limiters and budgets, which all processes share.

limiter               limiter(): a limiter by its name, over admission, departure, slots, bucket, wake
budget                budget(): a budget by its name
budget_reservation    what a call may cost that is under way: reserve, settle, release
budget_statements     its SQL
budget_rows           the row of a budget: made when it is first used
budget_settings       PGONLY["BUDGETS"]: validated, and its patterns
declared_rows         whose declaration stands, for the rows of both
unpaid                which errors say that a request was not paid
expiry                reservations of dead processes count as spent; jobs go on where a budget has room again
pool_user, renewal, background    connections, leases, and what is done later, for both
"""
