"""A shop whose calls to others are written down."""

from django.db.models.functions import Now
from django.test import Client

from pgonly_django.models import Job, Wait
from pgonly_django.testing import drain

done = []
links = []


def charge_card(order_id):
    done.append(f"charge {order_id}")
    return "paid"


def reserve_stock(order_id):
    done.append(f"reserve {order_id}")


def mail_receipt(order_id, payment):
    done.append(f"mail {order_id} {payment}")


def refund_card(order_id):
    done.append(f"refund {order_id}")


def in_stock(order_id):
    return True


def weigh(item):
    return len(item)


def load_page(page):
    return {"orders": [page * 10, page * 10 + 1], "next": 2 if page == 1 else None}


def ask_price(courier, order_id):
    if courier == "post" and order_id == 8:
        raise ConnectionError("no answer")
    return {"post": 5, "bike": 4}[courier]


def ask_for_review(order_id, at):
    done.append(f"review {order_id} {at}")


def book_courier(courier, order_id):
    done.append(f"{courier} {order_id}")


def mail_manager(question, link):
    links.append(link)


def ran():
    """The names of the tasks that run now, and what each returned."""
    return [(result.task.name, result.return_value) for result in drain()]


def sleep_ends():
    drain()
    Wait.objects.filter(name__regex="^sleep |delivered:9").update(until=Now())
    Job.objects.filter(state="scheduled").run_now()
    drain()


def after(page):
    assert ("send_parcel", "2 kg") in ran()  # of the chain; the batch was cancelled
    assert page.progress_of(page.batch).cancelled == 2
    assert page.weights == []
    assert Job.objects.get(task__endswith="tell_customer").queue == "mails"

    page.check_stock.enqueue(4)
    assert [name for name, _ in ran()] == ["check_stock", "take_order"]
    assert done == ["charge 4", "reserve 4", "mail 4 paid"]
    page.return_money.enqueue(4)
    assert [name for name, _ in ran()] == ["return_money", "tell_customer"]

    page.start(5, ["cup", "tea", "rice"])
    assert [name for name, _ in ran()] == ["pack_item"] * 3 + ["close_parcel"]
    batch = page.Batch(on_success=page.close_parcel.bind(7))
    batch.enqueue(page.read_orders, 1)
    drain()
    assert Job.objects.filter(batch_id=batch.id).count() == 6

    chosen = page.choose_courier.enqueue(7)
    drain()
    chosen.refresh()
    assert chosen.return_value == "bike"

    followed, lost, delivered = page.follow_up.enqueue(7), page.follow_up.enqueue(9), page.deliver.enqueue(7)
    drain()
    page.webhook(7, "noon")
    drain()
    assert Wait.objects.filter(key=None, job_id=followed.id).exists()  # two weeks
    sleep_ends()
    for result, value in ((followed, "asked"), (lost, "lost"), (delivered, "delivered:7")):
        result.refresh()
        assert result.return_value == value
    assert done[-1] == "review 7 noon"
    refused = page.deliver.enqueue(10)
    page.send_event("refused:10")
    drain()
    refused.refresh()
    assert refused.return_value == "refused:10"
    assert "refund 10" in done

    decided = page.refund.enqueue(11)
    drain()
    visitor, path = Client(), links[0].removeprefix("https://shop.example")
    assert "Refund order 11?" in visitor.get(path).text
    visitor.post(path, {"choice": "yes", "confirmed": "yes"})
    drain()
    decided.refresh()
    assert (decided.return_value, done[-1]) == ("yes", "refund 11")

    whole = page.order.enqueue(12, ["cup", "tea"])
    drain()
    page.webhook(12, "noon")
    sleep_ends()
    drain()
    whole.refresh()
    assert whole.return_value == ["paid", "bike", "asked"]
