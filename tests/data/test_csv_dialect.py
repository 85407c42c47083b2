"""The dialect of a CSV file, from its first lines."""

from __future__ import annotations

import gzip

import pytest

from nll.data.csv_dialect import Dialect


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("a,b\n1,2\n", "t.csv", (",", ".")),
        ("a;b\n1,5;2\n", "t.csv", (";", ",")),
        ("a;b\n1.5;2\n", "t.csv", (";", ".")),
        ("a;b\n1,5;2.5\n", "t.csv", (";", ".")),
        ("a\tb\n1\t2\n", "t.csv", ("\t", ".")),
        ("a;b\n1;2\n", "t.tsv", ("\t", ".")),
        ('"a;b",c\n1,2\n', "t.csv", (",", ".")),
        ("", "t.csv", (",", ".")),
    ],
)
def test_detection(text, name, expected, tmp_path):
    found = Dialect().of(text.encode(), name)
    assert (found.sep, found.decimal) == expected
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert Dialect().of(tmp_path / f"{name}.gz", f"{name}.gz") == found


def test_what_is_passed_is_not_detected():
    assert Dialect("|", ",", "latin-1").of(b"a;b\n", "t.csv") == Dialect("|", ",", "latin-1")


def test_numbers_that_can_be_read_both_ways():
    with pytest.raises(ValueError, match="where the comma may separate decimals or thousands"):
        Dialect().of(b"a;y\n1,234;u\n", "t.csv")
