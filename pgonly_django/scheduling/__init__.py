"""Schedules: `@cron`, `@every`, PGONLY["SCHEDULES"] and rows made in the admin enqueue tasks at their times.

timing        when the ticks of a cron line or an interval are
declaration   one schedule as code or settings say it, and what is wrong with it
decorators    @cron and @every
settings      PGONLY["SCHEDULES"], its system check; brings the rows into line with all that is declared
due           finds the schedules that are due, and enqueues their jobs, each tick once
calls         from a schedule to a job; what an unfinished earlier run or a paused queue means for a tick
"""
