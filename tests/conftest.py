"""What all tests share.

Hypothesis draws the same examples at every run, so that a change is blamed for its own faults alone; `benchmarks.fuzz`
draws new ones. With ``--no-skips``, where everything is installed that a test may need, one that is skipped has failed.
"""

from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


# Families whose tests are left to `make test-all`, and those of which `make test` runs no more than exactness.
_LATER = {"qwen3_moe", "gemma4", "gemma4_shared"}
_EXACTNESS = {"smollm3", "mixtral", "qwen3_5"}
_OF_EXACTNESS = {"test_families.py", "test_trunks.py", "test_mixtures.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu"):
            continue
        callspec = getattr(item, "callspec", None)
        given = {value for value in callspec.params.values() if isinstance(value, str)} if callspec else set()
        if given & _LATER or (given & _EXACTNESS and item.path.name not in _OF_EXACTNESS):
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
