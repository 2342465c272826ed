"""The arguments of ``fit`` as text: short forms, repeated flags, configuration files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from dgbench.errors import UsageError


class Arguments(NamedTuple):
    """A command line, sorted out.

    Attributes:
        flags: in their long forms, repeated ones as one list.
        files: configuration files.
        resume: the run to go on with, if any.
    """

    flags: list[str]
    files: list[str]
    resume: str | None


def sorted_out(arguments: Sequence[str]) -> Arguments:
    """Long forms of the flags, with repeated ones as lists; configuration files; run to resume.

    Files are taken out and applied first, wherever they stand: placed last, one would silently
    override the flags before it.
    """
    long_forms = {"--algo": "--algo.name", "--dataset": "--data.name"}
    collected: dict[str, list[str]] = {
        flag: [] for flag in ("--test-env", "--train-env", "--logger", "--config", "--resume")
    }
    flags: list[str] = []
    for argument in _joined(arguments):
        flag, equals, value = argument.partition("=")
        if flag in collected:
            collected[flag].append(value)
        else:
            flags.append(long_forms.get(flag, flag) + equals + value)
    files, resume = collected.pop("--config"), collected.pop("--resume")
    flags += [f"{flag}={_as_list(values)}" for flag, values in collected.items() if values]
    return Arguments(flags, files, resume[-1] if resume else None)


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """Puts ``--flag value`` together as ``--flag=value`` for the flags read in phase one."""
    takes_value = {
        "--algo", "--algo.name", "--dataset", "--data.name", "--protocol", "--config",
        "--test-env", "--train-env", "--logger", "--resume", "--out",
    }  # fmt: skip
    remaining = iter(arguments)
    for argument in remaining:
        if argument in takes_value:
            value = next(remaining, None)
            if value is None:
                raise UsageError(f"{argument} needs a value; none was given.")
            yield f"{argument}={value}"
        else:
            yield argument


def paired(flags: Sequence[str]) -> list[str]:
    """Flags with their values as ``--flag=value``, whichever way they were typed.

    Args:
        flags: such as ``--steps 9`` or ``--steps=9``.

    >>> paired(["--steps", "9", "--force", "--out=runs"])
    ['--steps=9', '--force', '--out=runs']
    """
    found: list[str] = []
    for part in flags:
        if part.startswith("--") or not found or "=" in found[-1]:
            found.append(part)
        else:
            found[-1] += f"={part}"
    return found


def _as_list(values: list[str]) -> str:
    items = [int(value) if value.isdigit() else value for value in values]
    return yaml.safe_dump(items, default_flow_style=True, width=10**6).strip()


def long_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its short forms written out, as the command line's are.

    Args:
        config: nested options; ``algo`` and ``dataset`` may be names.

    Raises:
        UsageError: when options stand where a mapping of them must.

    >>> long_form({"algo": "irm", "dataset": "colored_mnist", "steps": 9})
    {'algo': {'name': 'irm'}, 'steps': 9, 'data': {'name': 'colored_mnist'}}
    """
    content = dict(config)
    if isinstance(content.get("algo"), str):
        content["algo"] = {"name": content["algo"]}
    for section in ("algo", "data", "network", "trainer"):
        if not isinstance(content.get(section, {}), Mapping):
            raise UsageError(
                f"{section} is {content[section]!r}; it must be a mapping of options, such as "
                f"{section}: {{name: value}}."
            )
    if "dataset" in content:
        content["data"] = {"name": content.pop("dataset"), **content.get("data", {})}
    return content


def as_options(config: Mapping[str, Any]) -> Iterator[str]:
    """The options that a configuration gives, spelt as flags.

    Args:
        config: nested options in their long forms.

    >>> list(as_options({"test_env": 2, "algo": {"penalty_weight": 1.0}}))
    ['--test-env', '--algo.penalty_weight']
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from (f"--{key}.{name}" for name in value)
        else:
            yield f"--{key.replace('_', '-')}"


def as_flags(config: Mapping[str, Any]) -> list[str]:
    """A configuration as the flags that say the same.

    Args:
        config: nested options; ``algo`` and ``dataset`` may be names.

    >>> as_flags({"algo": "irm", "test_env": "-90%", "data": {"grayscale": True}})
    ['--algo.name=irm', '--test-env=-90%', '--data.grayscale=true']
    """
    flags = []
    for key, value in long_form(config).items():
        if isinstance(value, Mapping):
            flags += [f"--{key}.{name}={_as_text(part)}" for name, part in value.items()]
        else:
            flags.append(f"--{key.replace('_', '-')}={_as_text(value)}")
    return flags


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
