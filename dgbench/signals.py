"""What signals ask of a run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol


class Stoppable(Protocol):
    """What a signal asks to stop."""

    stop_requested: int | None


@contextlib.contextmanager
def signals_asking(recorder: Stoppable) -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP stop the run after a step, with a checkpoint.

    An exception in the middle of an optimiser's step would leave half of the weights behind it.
    A second signal of a kind acts as it always did.

    Args:
        recorder: what is asked.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Slurm announces pre-emption by the first two, as its job asks for.
    asking = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, *hangup()]
    before = {number: signal.getsignal(number) for number in asking}
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def ask(number: int, frame: FrameType | None) -> None:
        recorder.stop_requested = number
        signal.signal(number, before[signal.Signals(number)])
        if number == signal.SIGHUP:
            _let_go(terminals)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    except SystemExit as error:
        # What Lightning makes of the second Ctrl-C.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hangup() -> list[signal.Signals]:
    """The signal of a terminal that is closed, unless this process was started to outlive it."""
    return [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]


def _let_go(terminals: list[int]) -> None:
    """Shows nothing any more on terminals that are gone: every word would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        if not os.isatty(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
