"""Several runs at once: one process each, with one thread."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch
from tqdm.auto import tqdm

from ..errors import InputError
from ..training.progress import progress_bar, set_line

Answers = Generator[tuple[int, Any], None, None]
# Seconds after which whoever draws a bar must have been killed.
TURN = 2
KILLED = (
    "its process was killed, for want of memory perhaps: run the same command again, with fewer "
    "--jobs"
)


def at_once(job: Callable[..., Any], work: Sequence[tuple[Any, ...]], jobs: int) -> list[Any]:
    """What `job(*arguments)` gives back for each of `work`, called at most `jobs` at a time.

    One thread each: models this small run fastest on one, and repeat bit for bit on it. With one
    process at a time, that process is this one. A bar shows the time left, judged by what is done.

    An exception of one ends all: a job whose failure is its own gives it back instead. Where a
    process was killed, for want of memory for example, an `InputError` stands for what it would
    have given back, and the others go on.

    Example:
        >>> from flowvae_tutorial.experiments.jobs import at_once
        >>> at_once(max, [("gaussian", "mixture"), ("hvae", "gaussian")], jobs=1)
        ['mixture', 'hvae']
    """
    jobs = min(jobs, len(work))
    here = jobs <= 1
    found: list[Any] = [None] * len(work)
    # Below the bars of the others, which lie on lines from 0.
    bar = progress_bar(
        desc="all runs", total=len(work), unit="run", smoothing=0, disable=len(work) < 2,
        **({} if here else {"position": jobs}),
    )  # fmt: skip
    with bar, contextlib.closing((_one_by_one if here else _shared)(job, work, jobs)) as answers:
        for place, answer in answers:
            found[place] = answer
            bar.update()
    return found


def _one_by_one(job: Callable[..., Any], work: Sequence[tuple[Any, ...]], _: int) -> Answers:
    torch.set_num_threads(1)
    for place, arguments in enumerate(work):
        yield place, job(*arguments)


def _shared(job: Callable[..., Any], work: Sequence[tuple[Any, ...]], jobs: int) -> Answers:
    """The place of each of `work` and what came of it, in the order in which they end."""
    context = multiprocessing.get_context("spawn")
    stop, ours = context.Pipe(duplex=False)
    lock, processes = context.RLock(), []

    def start(line: int) -> Connection:
        """A process that draws on this line; its pipe ends when it does."""
        pipe, its = context.Pipe()
        process = context.Process(target=_work, args=(job, its, stop, line, lock), daemon=True)
        # Ctrl-C reaches every process of a terminal; it is for this one to end the others.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, handler)
        its.close()
        processes.append(process)
        return pipe

    waiting = list(enumerate(work))[::-1]
    busy: dict[Connection, tuple[int, int]] = {}
    alone = tqdm.get_lock()
    tqdm.set_lock(_Turns(lock))
    try:
        idle = [(line, start(line)) for line in range(jobs)]
        while waiting or busy:
            while waiting and idle:
                (line, pipe), (place, arguments) = idle.pop(0), waiting.pop()
                busy[pipe] = line, place
                with contextlib.suppress(OSError):  # it was killed: so says its pipe below
                    pipe.send(arguments)
            for ready in wait(list(busy)):
                line, place = busy.pop(pipe := cast(Connection, ready))
                try:
                    answer, error = pipe.recv()
                except (EOFError, OSError):
                    answer, error = InputError(KILLED), None
                    pipe = start(line)
                if error is not None:
                    raise error
                idle.append((line, pipe))
                yield place, answer
    finally:
        tqdm.set_lock(alone)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        ours.close()


def _work(
    job: Callable[..., Any], pipe: Connection, stop: Connection, line: int, lock: Any
) -> None:
    """Do one after the other, until this process is ended."""
    torch.set_num_threads(1)
    tqdm.set_lock(_Turns(lock))
    set_line(line)
    # A process whose parent was stopped or killed would otherwise train to the end unseen.
    threading.Thread(target=_end_with, args=(stop,), daemon=True).start()
    while True:
        arguments = pipe.recv()
        try:
            pipe.send((job(*arguments), None))
        except InputError as error:
            pipe.send((None, error))
        except Exception:
            # Not every exception gets through a pipe.
            pipe.send((None, RuntimeError(traceback.format_exc())))


def _end_with(stop: Connection) -> None:
    wait([stop])
    os._exit(1)


class _Turns:
    """The lock of the bars, which nobody gives back if its owner is killed."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def acquire(self, *how: Any) -> bool:
        if self.lock is not None and not self.lock.acquire(True, TURN):
            self.lock = None
        return True

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()
