"""Files that are there whole or not at all, whatever stops the process that writes them."""

import contextlib
import os
from pathlib import Path

from ..errors import InputError


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` beside its place and rename it.

    Raises:
        InputError: the disk is full or not writable. What was at `path` before is still there.

    Example:
        >>> from pathlib import Path
        >>> from flowvae_tutorial.storage.files import write_whole
        >>> write_whole(Path("notes") / "first.txt", b"all of it").read_bytes()
        b'all of it'
    """
    half = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(content)
        os.replace(half, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            half.unlink()
        raise InputError(
            f"could not write {path} ({error.strerror}): make room and run again; what was there "
            "before is kept"
        ) from error
    return path
