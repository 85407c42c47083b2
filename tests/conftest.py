"""Settings of the whole suite, and what its last lines say."""

import os
from collections import Counter

import torch

# Before Triton is imported: its kernels run on this processor, for want of a device to run them on.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tests' tensors are small: threads would cost more than they bring, and far more on a busy machine.
torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """Print how many of PyTorch's own cases ran, by what test_torch_cases.py recorded of each kind."""
    counts = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call":
                for name, value in report.user_properties:
                    if name == "cases of PyTorch":
                        counts.update(value)
    if counts:
        terminalreporter.section("PyTorch's own cases")
        for kind, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:5d}  {kind}")
        terminalreporter.write_line(f"{counts.total():5d}  in all")
