"""Files that anybody may have written, damaged at random and on purpose.

Of whatever is read there are two outcomes: the right answer, or one message and exit 2 (of
`predict` also the rows of the good images and exit 1); never a traceback, a hang or another number.

The few seconds of it run with all other tests; `pytest -m fuzz` goes on for ten minutes. An attempt
that fails is named by its target and number, and `attempt(target, number, ...)` repeats it.
"""

from __future__ import annotations

import faulthandler
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.sources import Sources
from tests.fuzz.targets import TARGETS
from tests.hostile import within

SECONDS = 600


def attempt(
    target: Callable[[Sources, Random, Path], None], number: int, sources: Sources, folder: Path
) -> None:
    """Makes one attempt; the same number does the same each time."""
    place = folder / str(number)
    place.mkdir()
    try:
        with within(30), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a user would see them; they end nothing
            target(sources, Random(f"{target.__name__} {number}"), place)
    except BaseException as error:
        raise AssertionError(f"{target.__name__}, attempt {number}, in {place}") from error
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(autouse=True)
def _end_what_hangs_in_a_library() -> Iterator[None]:
    """What takes no signal is ended with a traceback, and all tests with it."""
    faulthandler.dump_traceback_later(SECONDS / 3, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_a_few_attempts(target, sources: Sources, tmp_path: Path) -> None:
    for number in range(TARGETS[target]):
        attempt(target, number, sources, tmp_path)


@pytest.mark.fuzz
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_for_ten_minutes(target, sources: Sources, tmp_path: Path) -> None:
    end = time.monotonic() + SECONDS / len(TARGETS)
    number = 1_000
    while time.monotonic() < end:
        attempt(target, number, sources, tmp_path)
        number += 1
