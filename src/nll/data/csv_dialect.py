"""The dialect of a CSV file: separator, decimal sign and encoding, as passed or detected."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, NamedTuple

_SAMPLE = 1 << 20  # bytes searched for numbers with a comma
_HEAD, _LINES = 1 << 16, 10  # characters and lines searched for the separator
_SEPARATORS = ",;\t"


class Dialect(NamedTuple):
    """Separator, decimal sign and encoding; None: detected, and UTF-8."""

    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None

    def check(self) -> Dialect:
        """Return the dialect itself. Raises: ValueError for impossible values."""
        if self.sep is not None and (len(self.sep) != 1 or self.sep in '"\r\n'):
            raise ValueError(
                f"expected a separator of one character, such as ; or a tab, got {self.sep!r}"
            )
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"expected a decimal sign of . or a comma, got {self.decimal!r}")
        if self.sep is not None and self.sep == self.decimal:
            raise ValueError(
                f"expected a separator other than the decimal sign, got {self.sep!r} for both"
            )
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(
                f"expected an encoding such as utf-8 or latin-1, got {self.encoding!r}"
            ) from None
        return self

    def of(self, source: Any, name: str) -> Dialect:
        """Return the dialect with what is None detected from the first lines; `source`: a path, or
        bytes.

        Between semicolons a comma is the decimal sign if some numbers could not be thousands (0,5
        or 12,34) and none has a point.

        Raises: ValueError if the numbers can be read both ways.
        """
        text = _sample(source).decode(self.encoding or "utf-8", errors="replace")
        sep = self.sep or ("\t" if ".tsv" in name.lower() else _separator(text))
        decimal = self.decimal or (_decimal(text, name) if sep == ";" else ".")
        return Dialect(sep, decimal, self.encoding or "utf-8")

    def options(self, **convert: Any) -> dict[str, Any]:
        """Return the options of Arrow's CSV readers; `convert`: more of them for the conversion."""
        from pyarrow import csv

        return {
            "parse_options": csv.ParseOptions(delimiter=self.sep),
            "read_options": csv.ReadOptions(encoding=self.encoding),
            "convert_options": csv.ConvertOptions(
                strings_can_be_null=True, decimal_point=self.decimal, **convert
            ),
        }


def _sample(source: Any) -> bytes:
    if isinstance(source, bytes):
        return source[:_SAMPLE]
    import pyarrow as pa

    # decompresses by the name
    with pa.input_stream(str(source) if isinstance(source, Path) else source) as file:
        return file.read(_SAMPLE)


def _separator(text: str) -> str:
    """Return the first separator that occurs equally often in each line, quotes aside; otherwise
    the first in the header.
    """
    lines = re.sub(r'"[^"]*"', "", text[:_HEAD]).splitlines()[:_LINES] or [""]
    counts = {sign: {line.count(sign) for line in lines if line} for sign in _SEPARATORS}
    steady = (sign for sign in _SEPARATORS if len(counts[sign]) == 1 and 0 not in counts[sign])
    return next(steady, None) or next((sign for sign in _SEPARATORS if sign in lines[0]), ",")


def _decimal(text: str, name: str) -> str:
    fields = [field.strip(' "') for line in text.splitlines()[1:] for field in line.split(";")]
    with_comma = [field for field in fields if re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", field)]
    if not with_comma or any(
        re.fullmatch(r"[+-]?\d*\.\d+([eE][+-]?\d+)?", field) for field in fields
    ):
        return "."
    if all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", field) for field in with_comma):
        raise ValueError(
            f"expected --decimal , or --decimal . for {name}, got {with_comma[0]}, where the comma "
            f"may separate decimals or thousands"
        )
    return ","
