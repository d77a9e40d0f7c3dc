"""How the workers of a command are, over HTTP and by a file. See docs/how-to/health_checks.md.

health.py      both, and the thread that serves them where there is no supervisor
server.py      sockets and clients; http.py has the requests and the responses
routes.py      what each path answers, made from snapshot.py; metrics.py and wake.py are two of them
"""
