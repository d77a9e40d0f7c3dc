"""`{% load pgonly %}` is for the templates of a site. The two others are for our own in the admin."""
