"""Rows in blocks."""

import pytest

from nll.data import prefetch as module
from nll.data.prefetch import blocks


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 5000])
@pytest.mark.parametrize("width", [0, 1, 7, 10**9])
def test_every_row_is_in_one_block(rows, width):
    assert [row for block in blocks(rows, width) for row in range(rows)[block]] == list(range(rows))


def test_a_block_fits_in_the_cache(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 8 * 1000)
    assert [(block.start, block.stop) for block in blocks(250, 10)] == [
        (0, 100),
        (100, 200),
        (200, 250),
    ]
    # Rows too wide for it still come by the dozen: a matrix product of single rows would be slow.
    assert [(block.start, block.stop) for block in blocks(100, 10**6)] == [(0, 64), (64, 100)]
