"""Settings of the whole suite, and what its last lines say.

NLL_TEST_DEVICE=cuda tests there what every backend runs, as `make test-device` does; "cpu" tests it
here. With NLL_REQUIRE_COMPILED=1 a test that is skipped for want of the compiled loops or of Triton
fails.
"""

import gc
import os
from collections import Counter

import pytest
import torch

DEVICE = os.environ.get("NLL_TEST_DEVICE", "")

# Before Triton is imported: its kernels run on this processor, for want of a device to run them on.
if DEVICE == "cpu" or not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tests' tensors are small: threads would cost more than they bring, and far more on a busy
# machine.
torch.set_num_threads(1)


def pytest_configure():
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise pytest.UsageError(f"NLL_TEST_DEVICE={DEVICE}, and PyTorch finds no CUDA device")


def pytest_collection_finish():
    """Leave what is there for good, modules and tests, out of every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def device(backend):
    """Where the tensors of a test lie that runs on a backend."""
    from cases import DEVICES

    return DEVICES[backend]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let no test be skipped for want of what has to be there."""
    report = yield
    if report.skipped and os.environ.get("NLL_REQUIRE_COMPILED") == "1":
        from nll.kernels import cpu
        from nll.losses import dispatch

        if reason_of(report) in (cpu.MISSING, dispatch.TRITON_MISSING):
            report.outcome = "failed"
            report.longrepr = f"NLL_REQUIRE_COMPILED=1, but {reason_of(report)}"
    return report


def reason_of(report):
    """Why a test was skipped."""
    place = report.longrepr  # a file, a line and the reason; of an expected failure something else
    found = place[-1] if isinstance(place, (tuple, list)) else place
    return str(found).removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter):
    """Print how many tests were skipped and why, and how many of PyTorch's own cases ran."""
    print_skips(terminalreporter)
    print_cases_of_pytorch(terminalreporter)


def print_skips(terminalreporter):
    counts = Counter(reason_of(report) for report in terminalreporter.getreports("skipped"))
    if counts:
        terminalreporter.section("Skipped")
        print_counts(terminalreporter, counts.most_common())


def print_cases_of_pytorch(terminalreporter):
    """By what test_torch_cases.py has recorded of each kind."""
    counts = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call":
                for name, value in report.user_properties:
                    if name == "cases of PyTorch":
                        counts.update(value)
    if counts:
        terminalreporter.section("PyTorch's own cases")
        print_counts(terminalreporter, sorted(counts.items()))


def print_counts(terminalreporter, counts):
    for kind, count in counts:
        terminalreporter.write_line(f"{count:5d}  {kind}")
    terminalreporter.write_line(f"{sum(count for _, count in counts):5d}  in all")
