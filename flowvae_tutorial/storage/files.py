"""Files that are there whole or not at all, and are read whole or not at all."""

import contextlib
import errno
import os
import secrets
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import InputError

# What helps, by what the system says.
_ADVICE = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room and run again",
    errno.EACCES: "ask for the right to write there, or name another place",
    errno.EPERM: "ask for the right to write there, or name another place",
    errno.EROFS: "name a place that is not read-only",
    errno.EISDIR: "move it away, or name another place",
    errno.ENOTDIR: "move the file away that stands where a folder must, or name another place",
    errno.EEXIST: "move the file away that stands where a folder must, or name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# No model of this package comes near it, and reading a longer file could fill the memory.
LARGEST = 4 * 2**30
# The half-written file of a process that was killed is in nobody's way, and goes after an hour.
_HALF, _STALE = ".flowvae-*.part", 3600
# What this process alone writes, and in which thread.
_owners: set[tuple[Path, int]] = set()


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` beside its place and rename it.

    Each writer has a file of its own until then: of several, one is last and none is torn. A link
    stays one, and what it points to is replaced. A file that was there keeps its permissions.

    Raises:
        InputError: the disk is full or not writable, or the path names no place for a file. What
            was at `path` before is still there.

    Example:
        >>> from pathlib import Path
        >>> from flowvae_tutorial.storage.files import write_whole
        >>> write_whole(Path("notes") / "first.txt", b"all of it").read_bytes()
        b'all of it'
    """
    place = Path(os.path.realpath(path))
    half = place.with_name(_HALF.replace("*", secrets.token_hex(8)))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if (there := place.exists()) and not place.is_file():
            raise IsADirectoryError(errno.EISDIR, "a directory or a device is in its place")
        # "x" makes a new file or none: it follows no link that somebody put there.
        with half.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if there:
            half.chmod(stat.S_IMODE(place.stat().st_mode))
        os.replace(half, place)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "name another place")
        raise InputError(
            f"could not write {path} ({error.strerror}): {advice}; what was there before is kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            half.unlink()
    with contextlib.suppress(OSError):
        for left in place.parent.glob(_HALF):
            if left.stat().st_mtime < place.stat().st_mtime - _STALE:
                left.unlink()
    return path


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`, among those that ask for it.

    The system holds the lock, a file beside it, and lets go of it if this process is killed. Who
    has it may ask again.

    Raises:
        InputError: another has it.

    Example:
        >>> from pathlib import Path
        >>> from flowvae_tutorial.storage.files import only_writer
        >>> with only_writer(Path("run.pt")):
        ...     print(*Path().glob(".run*"))
        .run.pt.lock
    """
    place = Path(os.path.realpath(path))
    lock, owner = place.with_name(f".{place.name}.lock"), (place, threading.get_ident())
    with contextlib.ExitStack() as held:
        # Where no lock can be made, no file can, and that says why; or the system has no locks.
        with contextlib.suppress(OSError):
            if owner not in _owners:
                made = [folder for folder in place.parents if not folder.exists()]
                place.parent.mkdir(parents=True, exist_ok=True)
                if not _take(held.enter_context(lock.open("ab"))):
                    raise InputError(
                        f"another process is writing {path}: wait until it has ended, or name "
                        "another place"
                    )
                _owners.add(owner)
                held.callback(_forget, lock, owner, made)
        yield


def _take(file: IO[bytes]) -> bool:
    """Whether this process has the lock now, and not on what its last owner threw away."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise
        return False
    return os.fstat(file.fileno()).st_nlink > 0


def _forget(lock: Path, owner: tuple[Path, int], made: list[Path]) -> None:
    """Leave nothing but what was written in between."""
    _owners.remove(owner)
    # Windows removes no file that is open: there it stays, and is taken again.
    with contextlib.suppress(OSError):
        lock.unlink()
        for folder in made:
            folder.rmdir()


def read_whole(path: Path, largest: int = LARGEST) -> bytes:
    """What is in a file, if it is a file and not too long.

    Raises:
        InputError: there is none, it is something else, too long or not to be read.

    Example:
        >>> from pathlib import Path
        >>> from flowvae_tutorial.storage.files import read_whole
        >>> Path("first.txt").write_bytes(b"all of it")
        9
        >>> read_whole(Path("first.txt"))
        b'all of it'
    """
    try:
        if not path.is_file():
            # Of a pipe, for one, nobody knows when it ends.
            raise InputError(
                f"{path} is a folder or a device and no file"
                if path.exists()
                else f"there is no file {path}"
            )
        if (size := path.stat().st_size) > largest:
            raise InputError(f"{path} has {size} bytes, more than the {largest} that are read")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"could not read {path} ({error.strerror}): name another file") from error
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory") from error
