"""YAML that users write: text, numbers, lists and names with one meaning, or one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dgbench.errors import UsageError

# Of a file, in bytes; of what it holds once its aliases are written out, in values and levels.
_LARGEST, _MOST_VALUES, _DEEPEST = 2**24, 100_000, 50
_STANDARD = "tag:yaml.org,2002:"
_NAMES = (f"{_STANDARD}str", f"{_STANDARD}merge")


def read_yaml(path: Path, option: str = "") -> dict[str, Any]:
    """Reads a file of named values.

    Args:
        path: the file.
        option: what named it, for the message.

    Raises:
        UsageError: when it cannot be read, or holds something else.
    """
    named = f"{option} {path}".strip()
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise UsageError(f"it is larger than {_LARGEST:,} bytes")
        content = parse_yaml(text.decode())
    except (OSError, UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{named} cannot be read as YAML: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{named} holds no mapping of names to values.")
    return content


def parse_yaml(text: str) -> Any:
    """What a text of YAML says: names that are text, and values as JSON has them.

    Raises:
        UsageError: when it is no YAML, gives a name twice, or is nested without end.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UsageError(" ".join(str(error).split())) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal names and any depth."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = 0
        # By node: levels and values, its aliases written out.
        self._measures: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._level += 1
        if self._level > _DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if not is_alias:
            self._measure(node)
        elif id(node) not in self._measures:
            raise yaml.MarkedYAMLError(problem="an alias of what it is in", problem_mark=mark)
        return node

    def _measure(self, node: yaml.Node | None) -> None:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        measures = [self._measures[id(child)] for child in children]
        depth = 1 + max((levels for levels, _ in measures), default=0)
        size = 1 + sum(values for _, values in measures)
        if depth > _DEEPEST or size > _MOST_VALUES:
            problem = f"more than {_DEEPEST} levels or {_MOST_VALUES:,} values"
            mark = None if node is None else node.start_mark
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self._measures[id(node)] = depth, size

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            problem = ""
            if key.tag not in _NAMES:
                problem = f"{_written(key)} is no text, as a name must be; put it in quotes"
            elif key.value in seen:
                problem = f"{_written(key)} is there a second time; leave one of them"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _written(key: yaml.Node) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"


def _as_text(loader: _Loader, node: yaml.Node) -> str:
    return str(node.value)


def _refused(loader: _Loader, node: yaml.Node) -> None:
    problem = f"{node.tag.replace(_STANDARD, '!!')} is no text, number, list or mapping"
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


# A date stays the text it is; what JSON cannot hold is refused.
_Loader.add_constructor(f"{_STANDARD}timestamp", _as_text)
for _kind in ("binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"{_STANDARD}{_kind}", _refused)
