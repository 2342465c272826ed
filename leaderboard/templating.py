"""Templates that escape whatever they are given, as their file's format demands."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("leaderboard", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def asset(name: str) -> Markup:
    """A style sheet or a script of ours, to be put into a page as it is."""
    folder = resources.files("leaderboard").joinpath("templates")
    return Markup(folder.joinpath(name).read_text(encoding="utf-8"))


def render(template: str, **values: Any) -> str:
    """Fill an HTML or SVG template; every value is escaped unless it is Markup."""
    return _environment().get_template(template).render(values)
