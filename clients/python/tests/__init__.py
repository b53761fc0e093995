"""Holds the tests of the package `recado`. Run them with `python -m unittest`."""
