"""Registers attacks, and defines how one fails or is skipped."""

import time

ATTACKS = []


class Broken(Exception):
    """The hub did not hold. The text describes the observation."""


class Skipped(Exception):
    """This machine lacks what the attack needs. The text says what."""


def attack(name, what):
    """Registers a function of one argument, the `World`. It returns a short description of the observation."""

    def register(function):
        ATTACKS.append((name, what, function))
        return function

    return register


def check(holds, seen):
    """Ends the attack as broken unless `holds`."""
    if not holds:
        raise Broken(seen)


def eventually(probe, seconds, seen):
    """Calls `probe` until it returns a true value, and returns that; ends the attack as broken after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > end:
            raise Broken(f"not within {seconds} s: {seen}")
        time.sleep(0.05)


def median(values):
    """The median of a list that is not empty."""
    values = sorted(values)
    return values[len(values) // 2]
