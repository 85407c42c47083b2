"""Names of columns in a formula: any text in backticks, its own backticks doubled, as an identifier
for the parsers.
"""

from __future__ import annotations

import ast
import keyword
import re

_ALIAS = re.compile(r"quoted_((?:[0-9a-f]{2})*)_")
_WORD = re.compile(r"[^\W\d]\w*")
# Q("a name") is patsy's way to quote; a text's own brackets and quotes must not end a part of the
# formula.
_PARTS = re.compile(
    r"""(?P<name>`(?:[^`]|``)*`)|(?P<q>\bQ\(\s*(?P<quote>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*\))"""
    r"""|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[^\W\d]\w*)|(?P<number>\d[\w.]*)""",
    re.DOTALL,
)


class FormulaError(ValueError):
    """What a formula asks for cannot be; the message says so to the user."""


def short(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else f"{text[: most - 3]}...")


def aliased(text: str) -> str:
    """A formula with each name that Python cannot read, or would change, as an identifier that
    stands for it.
    """

    def part(match: re.Match[str]) -> str:
        if match["name"] is not None:
            return _alias(match["name"][1:-1].replace("``", "`"))
        if match["q"] is not None:
            return _alias(ast.literal_eval(match["quote"]))
        if match["text"] is not None:
            letters = (
                c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}"
                for c in ast.literal_eval(match["text"])
            )
            return f'"{"".join(letters)}"'
        plain = match["word"] is None or (match[0].isascii() and not _ALIAS.match(match[0]))
        return match[0] if plain else _alias(match[0])

    return _PARTS.sub(part, text)


def right_side(text: str) -> str:
    """Return what follows a formula's ~, which is not that in a name or a text."""
    tilde = _PARTS.sub(lambda match: "x" * len(match[0]), text).find("~")
    return text[tilde + 1 :].strip()


def _alias(name: str) -> str:
    if (
        name.isascii()
        and name.isidentifier()
        and not keyword.iskeyword(name)
        and not _ALIAS.match(name)
    ):
        return name
    return f"quoted_{name.encode('utf-8', 'surrogatepass').hex()}_"


def name_of(alias: str) -> str:
    """The name that an identifier of `aliased` stands for."""
    match = _ALIAS.fullmatch(alias)
    return alias if match is None else bytes.fromhex(match[1]).decode("utf-8", "surrogatepass")


def quoted(name: str) -> str:
    """A column's name as a formula has it: in backticks where it needs them, its own backticks
    doubled.
    """
    plain = _WORD.fullmatch(name) and not keyword.iskeyword(name)
    return name if plain else "`" + name.replace("`", "``") + "`"


def unaliased(text: str) -> str:
    """The inverse of `aliased`."""
    return _ALIAS.sub(lambda match: quoted(name_of(match[0])), text)
