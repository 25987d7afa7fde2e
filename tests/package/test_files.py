"""A file is there whole or not at all, whatever keeps it from being written."""

import errno
import os
import secrets
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from flowvae_tutorial import InputError
from flowvae_tutorial.storage.files import write_whole

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        write_whole(path, b"new")
    said = str(error.value)
    assert "\n" not in said
    assert str(path) in said, "the place that was asked for, not the half beside it"
    assert "was there before is kept" in said
    assert ("make room" in said) == ("No space left" in said or "quota" in said)
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


@pytest.mark.parametrize(("hours", "left"), [(0.9, True), (1.1, False)])
def test_what_a_killed_process_left_is_no_obstacle_and_goes_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float, left: bool
) -> None:
    path, half = tmp_path / "file.bin", tmp_path / ".flowvae-0123456789abcdef.part"
    half.write_bytes(b"half of something")
    then = time.time() - hours * 3600
    os.utime(half, (then, then))
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == [half.name] * left + ["file.bin"]


@pytest.mark.parametrize("stopped_in", ["fsync", "replace"])
def test_whoever_reads_meanwhile_sees_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: str
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def stopped(*args: object) -> None:
        assert path.read_bytes() == b"old"
        [half] = set(names(tmp_path)) - {"file.bin"}
        assert (tmp_path / half).read_bytes() == b"new", "all of it, before the disk is waited for"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, stopped_in, stopped)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["file.bin"])
    write_whole(path, b"new")
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["file.bin"])


# Each writes the file over and over, with a letter of its own, until the standard input ends.
WRITER = """
import sys, threading
from pathlib import Path
from flowvae_tutorial.storage.files import write_whole
print("ready", flush=True)
asked = threading.Thread(target=sys.stdin.read)
asked.start()
while asked.is_alive():
    write_whole(Path(sys.argv[1]), 300_000 * sys.argv[2].encode())
"""


def test_two_processes_that_write_one_file_never_tear_it(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(300_000 * b"-")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], cwd=ROOT, **pipes)
        for letter in "ab"
    ]
    assert [writer.stdout.readline() for writer in writers] == [b"ready\n", b"ready\n"]
    seen: Counter[bytes] = Counter()
    end = time.monotonic() + 20
    while min(seen[b"a"], seen[b"b"]) < 20 and time.monotonic() < end:
        content = path.read_bytes()
        if content != 300_000 * content[:1]:
            seen[b"torn"] += 1
        seen[content[:1]] += 1
    for writer in writers:
        writer.communicate()
    assert seen[b"torn"] == 0
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen[b"a"] and seen[b"b"], "both were read amid the writing"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("old", [b"old", None])
@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "right to write"),
        (errno.EPERM, "right to write"),
        (errno.EROFS, "not read-only"),
        (errno.EIO, "name another place"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_each_failure_has_its_own_advice_and_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    advice: str,
    old: bytes | None,
) -> None:
    path = tmp_path / "file.bin"
    if old is not None:
        path.write_bytes(old)

    def fails(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fails)
    said = refusal(path)
    assert os.strerror(code) in said and advice in said
    assert names(tmp_path) == (["file.bin"] if old else [])
    assert old is None or path.read_bytes() == old


def test_a_name_that_is_too_long_is_one_line_and_one_that_just_fits_is_written(
    tmp_path: Path,
) -> None:
    assert "shorter name" in refusal(tmp_path / (256 * "n"))
    assert names(tmp_path) == []
    path = tmp_path / (255 * "n")
    assert write_whole(path, b"new").read_bytes() == b"new"


needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a right of their own there")


@needs_links
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_what_it_points_to_is_replaced(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "elsewhere" / "target.bin"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    link = tmp_path / "link.bin"
    link.symlink_to(Path("elsewhere") / "target.bin")
    assert write_whole(link, b"new") == link
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert (names(tmp_path), names(target.parent)) == (["elsewhere", "link.bin"], ["target.bin"])


@needs_links
@pytest.mark.parametrize("name", ["file.bin.part", ".flowvae-planted.part"])
def test_no_planted_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    precious, path = tmp_path / "precious", tmp_path / "file.bin"
    precious.write_bytes(b"precious")
    (tmp_path / name).symlink_to(precious)
    # Somebody who guessed the name.
    monkeypatch.setattr(secrets, "token_hex", lambda count: "planted")
    if name == "file.bin.part":
        write_whole(path, b"new")
    else:
        refusal(path)
    assert precious.read_bytes() == b"precious"


@needs_links
def test_the_permissions_of_a_file_are_kept_and_those_of_a_new_one_the_usual(
    tmp_path: Path,
) -> None:
    old, new, usual = (tmp_path / name for name in ("old", "new", "usual"))
    usual.touch()
    for mode in (0o600, 0o640, 0o444):
        old.touch()
        old.chmod(mode)
        write_whole(old, b"new")
        assert stat.S_IMODE(old.stat().st_mode) == mode
    assert write_whole(new, b"new").stat().st_mode == usual.stat().st_mode


@needs_links
def test_a_device_or_a_pipe_in_the_files_place_is_one_line_and_kept(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "device" in refusal(pipe)
    (tmp_path / "link").symlink_to(os.devnull)
    assert "device" in refusal(tmp_path / "link")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode), "the device itself is untouched"
    assert names(tmp_path) == ["link", "pipe"]


def test_a_folder_that_is_a_file_is_one_line_and_the_file_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    assert "where a folder must" in refusal(tmp_path / "file" / "new" / "file.bin")
    assert "where a folder must" in refusal(tmp_path / "file" / "file.bin")
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
        said = refusal(tmp_path / "file.bin")
        assert "Permission denied" in said and "right to write" in said
        assert names(tmp_path) == []
    finally:
        tmp_path.chmod(0o700)
