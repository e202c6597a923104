"""What all tests share.

Hypothesis draws the same examples at every run, so that a change is blamed for its own faults alone; `benchmarks.fuzz`
draws new ones. With ``--no-skips``, where everything is installed that a test may need, one that is skipped has failed.
"""

from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


# Families of which the tests outside tests/nas_engine/families are left to `make test-all`.
_LATER = {"smollm3"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        if "families" not in item.path.parts and any(isinstance(v, str) and v in _LATER for v in given):
            item.add_marker(pytest.mark.slow)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test or file that is skipped has failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _failed_if_skipped((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _failed_if_skipped((yield), collector.config)


def _failed_if_skipped(report, config: pytest.Config):
    if report.skipped and config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which --no-skips forbids: {report.longrepr[2]}"
    return report
