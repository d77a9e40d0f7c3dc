"""`{% load pgonly %}` is for the templates of a site, `{% load pgonly_admin %}` for our own in the admin."""
