"""Tasks whose waiting jobs are looked at, edited and sent once more."""

from __future__ import annotations

from pgonly_django import task


@task
def pay(account, token, *codes, api_key="none", **options): ...


@task(takes_context=True)
def with_context(context, secret, number=1): ...


@task(unique=True, concurrency_key="account:{account}", concurrency_limit=5)
def keyed(account, note=""):
    return [account, note]


@task(unique=True, concurrency_key="{password}")
def named_by_a_secret(password): ...


def _no_account(account):
    raise LookupError(f"no account {account!r}")


@task(concurrency_key=_no_account)
def of_no_account(account): ...


@task(priority=5)
def plain(number, text="x", *, flag=False):
    return [number, text, flag]
