"""What `manage.py pgonly_health` judges by."""
