"""Runs all tests, and prints how many passed in one line that a script can read."""

import pathlib
import sys
import unittest
from typing import Any, cast


class CountingResult(unittest.TextTestResult):
    """Counts tests that passed, which `testsRun` does not tell apart from skipped ones in every Python."""

    passed = 0

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.passed += 1


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent
    suite = unittest.defaultTestLoader.discover(str(here), top_level_dir=str(here.parent))
    result = unittest.TextTestRunner(resultclass=cast(Any, CountingResult)).run(suite)
    assert isinstance(result, CountingResult)
    for test, reason in result.skipped:
        print(f"skipped {test}: {reason}")
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    print(f"{result.passed} passed, {failed} failed")
    sys.exit(0 if result.wasSuccessful() else 1)
