"""Results in files: whole, or the old ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nll.data.files import replacing, write_text


def test_a_file_is_replaced_with_its_permissions_through_its_links(tmp_path):
    old, link, hard = tmp_path / "old", tmp_path / "link", tmp_path / "hard"
    old.write_text("old")
    old.chmod(0o640)
    link.symlink_to(old)
    hard.hardlink_to(old)
    write_text(link, "größer")
    assert (old.read_text(encoding="utf-8"), old.stat().st_mode & 0o777, link.is_symlink()) == (
        "größer",
        0o640,
        True,
    )
    assert hard.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["hard", "link", "old"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("no"), KeyboardInterrupt()]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["result.json"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/full", "No space left on device: '/dev/full'"),
        (".", "Is a directory: '.'"),
        ("/nowhere/file", "No such file or directory: '/nowhere/file'"),
    ],
)
def test_what_cannot_be_written_is_named_as_it_was_given(path, message):
    with pytest.raises(OSError, match=message):
        write_text(path, "x")


def test_pipes_and_devices_are_written_in_place(tmp_path):
    write_text(os.devnull, "gone")
    assert Path(os.devnull).is_char_device()
    read, write = os.pipe()
    write_text(f"/dev/fd/{write}", "through")
    os.close(write)
    with open(read) as pipe:
        assert pipe.read() == "through"
