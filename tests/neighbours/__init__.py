"""Packages that Django projects have beside this one. Each file is named after the package that it imports, and runs
under the settings of the same name in `projects/`, else under those of `projects/together.py`.
"""
