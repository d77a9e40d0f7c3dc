from pgonly_django import task as declare

event = {"id": "evt_1"}


@declare
def handle_event(event):
    return event["id"]


def after(page):
    assert not page.result.is_duplicate
    assert page.sync_account.enqueue(7).is_duplicate
    assert handle_event.using(idempotency_key="evt_1").enqueue(event).is_duplicate
    assert page.refresh_prices.enqueue(1).id == page.refresh_prices.enqueue(1).id
    assert page.reindex.enqueue(1, "ada").id == page.reindex.enqueue(1, "bob").id
