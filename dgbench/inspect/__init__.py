"""What a data set is, how it looks, and what in it would spoil a benchmark."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.inspect.pictures import TRAINING_BATCHES, draw
from dgbench.inspect.report import show
from dgbench.inspect.survey import Survey, survey
from dgbench.settings import DataSettings

if TYPE_CHECKING:
    from rich.console import Console

    from datamodules.base import EnvironmentDataModule

__all__ = ["Survey", "inspect", "survey"]


def inspect(settings: DataSettings, console: Console) -> Survey:
    """Surveys a data set, shows what was found and draws it.

    Args:
        settings: which data set, and where to write.
        console: where to print the tables; JSON goes to the standard output.

    Raises:
        UsageError: where the folder of the pictures cannot be written.
    """
    data = load(settings)
    if not settings.json:
        data.say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    name = settings.data["name"]
    found = survey(data)
    if not settings.json:
        show(console, f"{name} ({settings.protocol}), data seed {settings.data_seed}", found)
    folder = Path(settings.out) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw(data, found, folder) if found.fingerprint else []
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be written: {error}.") from None
    if settings.json:
        head = {"data": settings.data, "protocol": settings.protocol}
        document = {**head, "data_seed": settings.data_seed, **found.to_dict()}
        document["pictures"] = [str(path) for path in pictures]
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return found
    for path in pictures:
        console.print(f"Written: {path}", highlight=False, soft_wrap=True)
    if found.fingerprint and not pictures:
        console.print(
            "No pictures: they need matplotlib, pip install 'dgbench[report]'.",
            highlight=False,
            markup=False,
        )
    return found


def load(settings: DataSettings) -> EnvironmentDataModule:
    """The data set of an inspection; nothing of it is loaded yet.

    Args:
        settings: which data set.
    """
    options = {key: value for key, value in settings.data.items() if key != "name"}
    data: EnvironmentDataModule = registry.load("data set", settings.data["name"])(
        **options,
        test_envs=settings.test_env,
        data_seed=settings.data_seed,
        steps=TRAINING_BATCHES,
    )
    return data
