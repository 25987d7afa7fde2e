"""A file is there whole or not at all, whatever keeps it from being written."""

import os
import stat
from pathlib import Path

import pytest

from flowvae_tutorial import InputError
from flowvae_tutorial.storage.files import write_whole

needs_full_disk = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, an always full disk"
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        write_whole(path, b"new")
    said = str(error.value)
    assert "\n" not in said
    assert str(path) in said, "the place that was asked for, not the half beside it"
    return said


def test_a_file_is_written_in_folders_that_are_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    content = bytes(range(256)) * 5000
    assert write_whole(path, content) == path
    assert path.read_bytes() == content
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("content", [b"new", b""])
def test_a_file_that_is_there_is_replaced_and_nothing_left_beside_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old and longer")
    write_whole(path, content)
    assert path.read_bytes() == content
    assert names(tmp_path) == ["file.bin"]


def test_a_half_that_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    (tmp_path / "file.bin.part").write_bytes(b"half of something longer")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("stopped_in", ["write_bytes", "replace"])
def test_whoever_reads_meanwhile_sees_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: str
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def stopped(*args: object) -> None:
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(*((Path, "write_bytes") if "_" in stopped_in else (os, "replace")), stopped)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["file.bin"])


@needs_full_disk
@pytest.mark.parametrize("old", [b"old", None])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, old: bytes | None
) -> None:
    path = tmp_path / "file.bin"
    if old is not None:
        path.write_bytes(old)
    half = path.with_name("file.bin.part")
    half.symlink_to("/dev/full")
    said = refusal(path)
    assert "No space left" in said and "make room" in said
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode), "the device itself is untouched"
    assert names(tmp_path) == (["file.bin"] if old else [])
    assert old is None or path.read_bytes() == old


def test_a_folder_that_is_a_file_is_one_line_and_the_file_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    refusal(tmp_path / "file" / "new" / "file.bin")
    refusal(tmp_path / "file" / "file.bin")
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_files_place_is_one_line_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    (path / "inside").mkdir(parents=True)
    assert "directory" in refusal(path)
    assert names(tmp_path) == ["file.bin"] and names(path) == ["inside"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in refusal(tmp_path / "file.bin")
        assert names(tmp_path) == []
    finally:
        tmp_path.chmod(0o700)
