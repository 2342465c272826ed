"""Damage to files, as accidents and people do it; the same for the same random state."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from tests.hostile import CONTENTS, VALUES, places, with_value

_LONGEST = 64


def _bit(random: Random, content: bytearray) -> None:
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def _byte(random: Random, content: bytearray) -> None:
    content[random.randrange(len(content))] = random.choice(b'\x00\xff"{}[],:\\\n\r0-')


def _cut(random: Random, content: bytearray) -> None:
    del content[random.randrange(len(content)) :]


def _lost(random: Random, content: bytearray) -> None:
    start = random.randrange(len(content))
    del content[start : start + random.randint(1, _LONGEST)]


def _zeros(random: Random, content: bytearray) -> None:
    start = random.randrange(len(content))
    end = min(len(content), start + random.randint(1, 4096))
    content[start:end] = bytes(end - start)


def _noise(random: Random, content: bytearray) -> None:
    start = random.randrange(len(content))
    content[start:start] = random.randbytes(random.randint(1, _LONGEST))


def _again(random: Random, content: bytearray) -> None:
    start = random.randrange(len(content))
    length = random.randint(1, len(content))
    content[start:start] = content[start : start + length]


def _exchanged(random: Random, content: bytearray) -> None:
    one, two = sorted(random.sample(range(len(content)), 2)) if len(content) > 1 else (0, 0)
    length = min(_LONGEST, two - one, len(content) - two)
    first, second = content[one : one + length], content[two : two + length]
    content[one : one + length], content[two : two + length] = second, first


_ACCIDENTS: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_bit, _byte, _cut, _lost, _zeros, _noise, _again, _exchanged),
)


def accident(random: Random, content: bytes) -> bytes:
    """What is left of a file's content after one to three accidents, or another content."""
    if random.random() < 0.05:
        return CONTENTS[random.choice(sorted(CONTENTS))]
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if changed:
            random.choice(_ACCIDENTS)(random, changed)
    return bytes(changed)


def intent(random: Random, text: str) -> str:
    """JSON in which something has another value."""
    content = json.loads(text)
    return with_value(
        content, random.choice(places(content)), VALUES[random.choice(sorted(VALUES))]
    )
