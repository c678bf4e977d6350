"""Print which tests, fixtures and files take most processor time.

    python tools/ci/slowest.py                       # the quick tests
    python tools/ci/slowest.py tests/test_train.py -m "slow or not slow"

The tests run in one process. Processor time is that of this process and of the processes it has
started and waited for, so that it hardly depends on what else the machine does. What a fixture of a
file or of the session takes is counted with the test that is the first to ask for it. Further words
go to pytest. The exit code is 1 where a test failed, or where one that is not marked ``slow`` took
more than ``--limit`` seconds.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field

import pytest

LIMIT = 10.0


def processor_seconds() -> float:
    """What this process and its ended children have used, in user and system mode."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@dataclass(slots=True, eq=False)
class Meter:
    """A pytest plugin that counts processor time.

    Attributes:
        collecting: seconds that importing and collecting the tests took.
        tests: seconds by test, with its fixtures.
        fixtures: seconds of all times that a fixture was made, by its name; with the fixtures that
            were made for it.
        files: seconds by file of tests.
        slow: the tests that are marked ``slow``.
    """

    collecting: float = 0.0
    tests: dict[str, float] = field(default_factory=dict)
    fixtures: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    files: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    slow: set[str] = field(default_factory=set)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Count the imports."""
        start = processor_seconds()
        result = yield
        self.collecting = processor_seconds() - start
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Count a test with its fixtures."""
        start = processor_seconds()
        result = yield
        seconds = processor_seconds() - start
        self.tests[item.nodeid] = seconds
        self.files[item.nodeid.partition("::")[0]] += seconds
        if item.get_closest_marker("slow"):
            self.slow.add(item.nodeid)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        """Count a fixture."""
        start = processor_seconds()
        result = yield
        self.fixtures[fixturedef.argname] += processor_seconds() - start
        return result


def show(title: str, seconds: dict[str, float], *, count: int) -> None:
    """Print the largest, in seconds."""
    print(f"\n{title}, in seconds of processor time")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1])[:count]:
        print(f"{value:8.2f}  {name}")


def main() -> int:
    """Run pytest, print the table, and judge."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--count", type=int, default=25, help="rows of a table")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of an unmarked test")
    options, words = parser.parse_known_args()
    meter = Meter()
    code = int(pytest.main(["-n", "0", *words], plugins=[meter]))
    show("Files", meter.files, count=options.count)
    show("Fixtures", meter.fixtures, count=options.count)
    show("Tests", meter.tests, count=options.count)
    quick = {name: value for name, value in meter.tests.items() if name not in meter.slow}
    print(
        f"\n{len(quick)} quick tests take {sum(quick.values()):.0f} s, {len(meter.slow)} slow ones "
        f"{sum(meter.tests[name] for name in meter.slow):.0f} s, importing and collecting them "
        f"{meter.collecting:.0f} s"
    )
    long = [name for name, value in quick.items() if value > options.limit]
    for name in long:
        print(f"mark as slow, or make quicker: {name} takes more than {options.limit:g} s")
    return code or int(bool(long))


if __name__ == "__main__":
    sys.exit(main())
