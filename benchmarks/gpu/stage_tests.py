"""Stage 2: the tests marked gpu, each written down as it ends."""

from __future__ import annotations

import time

import pytest
from stage import ROOT, Report, end, start


class Recorder:
    """A plugin of pytest that notes each test at once.

    Args:
        report: of the stage.
    """

    def __init__(self, report: Report) -> None:
        self.report, self.count = report, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's result, and whatever failed around it."""
        if report.when != "call" and report.passed:
            return
        self.count += 1
        name = report.nodeid.partition("tests/gpu/")[2] or report.nodeid
        figures = ", ".join(f"{key}: {value}" for key, value in report.user_properties)
        why = "" if report.passed else _reason(report)
        self.report.row(
            "Tests", test=name, outcome=report.outcome, seconds=round(report.duration, 2), found=figures or why
        )
        if report.failed:
            self.report.failed(name, why)


def _reason(report: pytest.TestReport) -> str:
    """The line of a failure that says most; of a skip, its reason."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2][:300]
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:500]


def main() -> None:
    """Run them in this process; the device is in LDM_TEST_DEVICE."""
    _, report = start("tests")
    began = time.monotonic()
    recorder = Recorder(report)
    options = ["-m", "gpu", str(ROOT / "tests" / "gpu"), "-v", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    status = pytest.main([*options, "-c", str(ROOT / "pyproject.toml")], plugins=[recorder])
    report.text(f"`pytest -m gpu tests/gpu`: {recorder.count} results in {time.monotonic() - began:.0f} s.")
    if status != 0 and not report.failures:
        report.failed("pytest", f"ended with status {int(status)}")
    end(report)


if __name__ == "__main__":
    main()
