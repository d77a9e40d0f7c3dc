"""The first page of the app in the admin: what goes on now, in panels."""
