"""Several runs at once: one process each, with one thread."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from tqdm.auto import tqdm

from ..errors import InputError
from ..training.progress import set_line


def at_once(job: Callable[..., Any], work: Sequence[tuple[Any, ...]], jobs: int) -> list[Any]:
    """What `job(*arguments)` gives back for each of `work`, called at most `jobs` at a time.

    One thread each: models this small run fastest on one, and repeat bit for bit on it. With one
    process at a time, that process is this one.

    An exception of one ends all: a job whose failure is its own gives it back instead.

    Raises:
        InputError: a process was killed, for want of memory for example.

    Example:
        >>> from flowvae_tutorial.experiments.jobs import at_once
        >>> at_once(max, [("gaussian", "mixture"), ("hvae", "gaussian")], jobs=1)
        ['mixture', 'hvae']
    """
    jobs = min(jobs, len(work))
    if jobs <= 1:
        torch.set_num_threads(1)
        return [job(*arguments) for arguments in work]
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    begin = (context.Value("i", 0), context.RLock(), theirs)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=begin)
    with theirs, ours, pool:
        # Ctrl-C reaches every process of a terminal; it is for this one to end the others.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        results = [pool.submit(job, *arguments) for arguments in work]
        signal.signal(signal.SIGINT, handler)
        try:
            for result in as_completed(results):
                result.result()
            return [result.result() for result in results]
        except BaseException as error:
            ours.close()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise InputError(
                    "a process was killed, for want of memory perhaps: run the same command "
                    "again, with fewer --jobs"
                ) from error
            raise


def _begin(begun: Any, lock: Any, stop: Connection) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    with begun:
        set_line(begun.value)
        begun.value += 1
    # A process whose parent was stopped or killed would otherwise train to the end unseen.
    threading.Thread(target=_end_with, args=(stop,), daemon=True).start()


def _end_with(stop: Connection) -> None:
    wait([stop])
    os._exit(1)
