"""Attacks a built hub from outside, with Python's standard library only."""
