"""How a statement gets to PostgreSQL and back. This room knows the tables of the queue, the sessions and
the cache only by their names.

statement.py makes a Statement: text with `%(name)s::type`, encoded parameters, a name under which servers prepare it.
It is sent in one of two ways.

In the caller's transaction, on Django's connection (enqueueing, sessions, NOTIFY):
    on_django.py   chooses: Django's cursor, psycopg's, or, once the statement is prepared there, libpq.py
    libpq.py       prepares, executes, and executes two in one round trip; reads the results
    notify.py      what tells workers of jobs, after the commit or in the same round trip as the INSERT
    wake_urls.py   what tells workers that sleep, over HTTP

On a connection of ours, outside of the caller's transactions:
    connect.py     a psycopg connection for one owner (the worker, the listeners), and the settings of all connections;
                   reconnecting.py opens it again
    pool.py        few connections for all threads and event loops (the cache), each a Connection (connection.py),
                   to one of the hosts (hosts.py); operation.py runs its calls, blocking or awaiting

listener.py wakes callers that wait for another process. testcase.py and testrun.py keep to Django's rules in tests.
in_schema.py teaches Django's connections PGONLY["SCHEMA"]; placement.py: where the tables are.
"""
