from django.db import models


class Invoice(models.Model):
    text = models.TextField()
