from pgonly_django.tasks.registry import import_task


def after(page):
    assert import_task("shop.tasks.send_mail") == page.send_invoice
