"""Progress bars, each on a line of its own where several processes share a terminal."""

from typing import Any

from tqdm.auto import tqdm

# Seconds.
DELAY = 2
# The line of this process's bars; None where there is one process.
_line: int | None = None


def set_line(line: int) -> None:
    """Choose the line of this process's bars, from 0."""
    global _line
    _line = line


def progress_bar(**options: Any) -> Any:
    """A tqdm bar with these options, with an estimate of the time left."""
    return tqdm(**{"position": _line} | options)


def slow_bar(**options: Any) -> Any:
    """A bar of what may be over before anyone waits: it is shown after two seconds."""
    return progress_bar(delay=DELAY, **options)
