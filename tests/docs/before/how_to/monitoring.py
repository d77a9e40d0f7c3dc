import os

from django.test import Client

os.environ["METRICS_TOKEN"] = "a token of twenty-one"


def after(page):
    assert Client().get("/metrics").status_code == 401
    answer = Client().get("/metrics", headers={"authorization": "Bearer a token of twenty-one"})
    assert b"pgonly_" in answer.getvalue()
