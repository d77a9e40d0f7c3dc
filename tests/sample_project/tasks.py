from pgonly_django import task


@task
def do_nothing():
    pass
