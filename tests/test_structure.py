"""The shape of the project: one door, files of readable size, facts that two places must share."""

import re
from pathlib import Path

import nll

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there_and_documented():
    for name in nll.__all__:
        assert getattr(nll, name).__doc__, name


def test_dir_shows_lazy_names():
    assert "SoftmaxRegression" in dir(nll)


def test_torch_is_pinned_within_the_range():
    pinned = re.search(r"torch==(\S+)", (ROOT / "constraints.txt").read_text()).group(1)
    lowest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    assert tuple(map(int, pinned.split("."))) >= tuple(map(int, lowest.split(".")))


def test_the_changelog_has_the_version():
    assert f"## {nll.__version__}" in (ROOT / "CHANGELOG.md").read_text()
