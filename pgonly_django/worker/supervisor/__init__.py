"""Several worker processes under one command: `runworker --processes N`. See docs/how-to/processes.md.

supervisor.py    the loop; its processes are in process.py, what they are started by in starting.py
channel.py       the line between the supervisor and a process, whose end of it is link.py
taking_back.py   the jobs of a process that has ended
announcing.py    the log line of each event
reloading.py     what --reload watches
"""
