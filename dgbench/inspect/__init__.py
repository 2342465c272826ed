"""What a data set is, how it looks, and what in it would spoil a benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.inspect import environments, shifts
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
    found = survey(data)
    usable = bool(found.fingerprint)
    compared = environments.compare(data) if settings.environments and usable else None
    shifted = (
        shifts.measure(data, settings.data["name"]) if compared and data.test_environments else None
    )
    pictures = _draw(settings, data, found) if usable else []
    if settings.json:
        sys.stdout.write(
            json.dumps(_document(settings, found, compared, shifted, pictures), indent=1) + "\n"
        )
        return found
    name = settings.data["name"]
    show(console, f"{name} ({settings.protocol}), data seed {settings.data_seed}", found)
    if compared is not None:
        environments.show(console, compared)
    if shifted is not None:
        shifts.show(console, shifted)
    lines = [f"Written: {path}" for path in pictures]
    lacking = ["No pictures: they need matplotlib, pip install 'dgbench[report]'."]
    for line in lines or lacking * usable:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return found


def _draw(settings: DataSettings, data: EnvironmentDataModule, found: Survey) -> list[Path]:
    folder = Path(settings.out) / settings.data["name"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return draw(data, found, folder)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be written: {error}.") from None


def _shifts(found: shifts.ShiftReport | str) -> dict[str, Any]:
    return {"not_measured": found} if isinstance(found, str) else found.to_dict()


def _document(
    settings: DataSettings,
    found: Survey,
    compared: environments.EnvironmentReport | None,
    shifted: shifts.ShiftReport | str | None,
    pictures: Sequence[Path],
) -> dict[str, Any]:
    """What is printed for machines."""
    return {
        "data": settings.data,
        "protocol": settings.protocol,
        "data_seed": settings.data_seed,
        **found.to_dict(),
        **({} if compared is None else {"training_environments": compared.to_dict()}),
        **({} if shifted is None else {"shifts": _shifts(shifted)}),
        "pictures": [str(path) for path in pictures],
    }


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
