"""The shape of the project: one door, readable sizes, and facts that two places must share."""

import ast
import doctest
import re
from pathlib import Path

import budgets
import pytest
import torch

import nll

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "nll"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {str(path.relative_to(SOURCE)): ast.parse(path.read_text("utf-8")) for path in FILES}
FUNCTIONS = [
    (f"{place}:{node.name}", node)
    for place, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef)
]


def lines(path):
    return len(path.read_text("utf-8").splitlines())


def test_every_public_name_is_there_and_documented():
    for name in nll.__all__:
        if not name.startswith("__"):
            assert getattr(nll, name).__doc__, name


def test_dir_shows_lazy_names():
    assert "SoftmaxRegression" in dir(nll)


def test_torch_is_pinned_within_the_range():
    pinned = re.search(r"torch==(\S+)", (ROOT / "constraints.txt").read_text()).group(1)
    lowest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    assert tuple(map(int, pinned.split("."))) >= tuple(map(int, lowest.split(".")))


def test_the_changelog_has_the_version():
    assert f"## {nll.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_statements():
    count = sum(isinstance(node, ast.stmt) for tree in TREES.values() for node in ast.walk(tree))
    assert count <= budgets.STATEMENTS


def test_lines_of_cpp():
    files = [*(ROOT / "csrc").glob("*")]
    assert sum(map(lines, files)) <= budgets.CPP_LINES
    assert {path.name: lines(path) for path in files if lines(path) > budgets.CPP_FILE} == {}


def test_files_are_short():
    long = {str(p.relative_to(SOURCE)): n for p in FILES if (n := lines(p)) > budgets.FILE}
    assert {place: n for place, n in long.items() if n > budgets.LONG_FILES.get(place, 0)} == {}
    assert set(budgets.LONG_FILES) <= set(long), "no longer long: take them out of the list"


def test_bodies_are_short():
    def length(node):
        first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
        return node.end_lineno - first.lineno + 1

    long = {name: length(node) for name, node in FUNCTIONS if length(node) > budgets.BODY}
    assert {name: n for name, n in long.items() if name not in budgets.LONG_BODIES} == {}
    assert set(budgets.LONG_BODIES) <= set(long), "no longer long: take them out of the list"


def test_folders_are_small():
    folders = {path.parent for path in FILES}
    crowded = {f.name: n for f in folders if (n := len([*f.glob("*.py")])) > budgets.FOLDER}
    assert crowded == {}


def test_every_module_has_its_test_file():
    missing = set()
    for path in FILES:
        place = path.relative_to(SOURCE)
        test = ROOT / "tests" / place.parent / f"test_{path.stem.lstrip('_')}.py"
        if not path.name.startswith("__") and not test.exists():
            missing.add(str(place))
    assert missing == budgets.WITHOUT_TEST_FILE


def test_docstrings_say_something():
    empty = [
        name
        for name, node in FUNCTIONS
        if (said := ast.get_docstring(node)) and len(re.findall(r"\w+", said)) < 3
    ]
    assert empty == []


PUBLIC = [name for name in nll.__all__ if callable(getattr(nll, name))]


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in budgets.RESULTS])
def test_every_public_name_has_an_example_that_runs(name):
    finder, globs = doctest.DocTestFinder(recurse=False), {"nll": nll, "torch": torch}
    (example,) = finder.find(getattr(nll, name), name, globs=globs)
    assert example.examples
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(example).failed == 0
