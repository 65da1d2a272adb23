"""A process for what may hang, crash, or leave a device unusable."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

__all__ = ["Failure", "Worker"]

# Not fork: a process that has used a device can't pass it on.
_PROCESSES = multiprocessing.get_context("spawn")
START_SECONDS = 60.0
ROOM_TO_END = 5.0


class Failure(Exception):  # noqa: N818 - of the job, not of the caller
    """A job raised, crashed or was stopped; says which."""


class Worker:
    """Runs one job after another in a process of its own, and a fresh one after a failure.

    Example:
        >>> with Worker() as worker:
        ...     list(worker.run(range, 3, limit=60))
        [0, 1, 2]
    """

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Any = None

    def run(
        self, job: Callable[..., Iterable[Any]], *arguments: Any, limit: float
    ) -> Iterator[Any]:
        """Yield what a job yields, each as soon as it's there.

        Args:
            job: a function that can be pickled, with its arguments and what it yields.
            limit: seconds from the job's start until the process is killed.

        Raises:
            Failure: after what the job yielded before it failed.
        """
        self._start()
        try:
            self._connection.send((job, arguments))
            self._receive(START_SECONDS)
            end = time.monotonic() + limit
            while True:
                kind, value = self._receive(max(0.0, end - time.monotonic()))
                if kind == "failure":
                    raise Failure(value)
                if kind == "end":
                    return
                yield value
        except TimeoutError:
            self.stop()
            raise Failure(f"stopped after {limit:.0f} s") from None
        except (EOFError, ConnectionError):
            self.stop()
            raise Failure("its process died") from None
        except BaseException:  # also of a caller that wants no more
            self.stop()
            raise

    def stop(self, patience: float = 0.0) -> None:
        """Kill the process, if there is one, unless it ends by itself within so many seconds."""
        if self._process is not None:
            self._connection.close()
            self._process.join(patience)
            self._process.kill()
            self._process.join()
            self._process = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(ROOM_TO_END)

    def _start(self) -> None:
        if self._process is not None:
            return
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()

    def _receive(self, patience: float) -> tuple[str, Any]:
        if not self._connection.poll(patience):
            raise TimeoutError
        message: tuple[str, Any] = self._connection.recv()
        return message


def _serve(connection: Connection) -> None:
    """Run jobs until none comes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job, arguments = connection.recv()
        except EOFError:
            return
        connection.send(("start", None))
        try:
            for value in job(*arguments):
                connection.send(("value", value))
            connection.send(("end", None))
        except Exception as error:
            connection.send(("failure", f"{type(error).__name__}: {error}"))
            traceback.print_exc()


def _end_with_parent() -> None:
    """End this process when the one that started it ends, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
