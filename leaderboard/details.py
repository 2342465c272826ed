"""What the page tells of single runs, packed: base64 of gzip of JSON.

Tables of one group of runs that differ in the selection rule alone share a pack.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from leaderboard.board import Board, Cell, Section, SectionKey
from leaderboard.commands import fit_command
from leaderboard.dotted import dotted
from leaderboard.filling import with_environments
from leaderboard.frame import Record
from leaderboard.records import Hardware, commit_text
from leaderboard.tables import column_title

WHOLE = "all"
"""The column of the cells that are taken over environments."""

_SCALE = 10_000  # accuracies are packed as integers in this fraction
_SEEDS = {"trial_seed", "data_seed", "hparams_seed"}


def shared_key(section: Section) -> SectionKey:
    """What tables of the same runs share: the key but the rule."""
    return replace(section.key, rule="last")


def pack(board: Board, sections: Sequence[tuple[int, Section]]) -> str:
    """Pack the runs of these tables.

    Args:
        board: Their board.
        sections: Tables of one `shared_key`, each with its place on the page.
    """
    records = _records(board, sections[0][1])
    places = {record.run_id: place for place, record in enumerate(records)}
    settings = _Table()
    grids = _Table()
    content = {
        "runs": [_run(record, settings, grids) for record in records],
        "cells": {str(place): _cells(section, records, places) for place, section in sections},
        "settings": [json.loads(text) for text in settings.values],
        "grids": [json.loads(text) for text in grids.values],
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def unpack(packed: str) -> Any:
    """The content of a pack."""
    return json.loads(gzip.decompress(base64.b64decode(packed)))


class _Table:
    """Values that many runs share, each once, with the place of each."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def place(self, value: object) -> int:
        return self.values.setdefault(json.dumps(value), len(self.values))


def _records(board: Board, section: Section) -> list[Record]:
    """All runs of a group, also those that no rule selected."""
    key = section.key
    return [
        record
        for record in board.runs.values()
        if (record.dataset, record.protocol, record.backbone, record.source, record.task)
        == (key.dataset, key.protocol, key.backbone, key.source, key.task)
        and (len(record.test), record.origin) == (key.held_out, key.origin)
        and (
            record.data == key.data
            or with_environments(record.data, record.environments) == key.data
        )
        and (record.space == key.search or record.draw == 0)
    ]


def _cells(
    section: Section, records: Sequence[Record], places: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    tried: dict[tuple[str, frozenset[str]], list[Record]] = {}
    for record in records:
        tried.setdefault((record.algorithm, frozenset(record.test)), []).append(record)
    found: dict[str, dict[str, Any]] = {}
    for r, row in enumerate(section.rows):
        cells = []
        for column, cell in zip(section.columns, row.cells, strict=True):
            test = frozenset((column.name, *column.held_out_with))
            candidates = tried.get((row.algorithm, test), ())
            own = [c for c in candidates if row.settings in (c.fixed, c.searched)]
            cells.append(_cell(cell, column.name, column_title(column), own, places))
        found |= {f"{r}:{c}": cell for c, cell in enumerate(cells)}
        found[f"{r}:{WHOLE}"] = {
            name: [item for cell in cells for item in cell[name]] for name in cells[0]
        }
    return found


def _cell(
    cell: Cell, environment: str, title: str, own: Sequence[Record], places: Mapping[str, int]
) -> dict[str, Any]:
    chosen = {number.run_id for number in cell.numbers}
    return {
        "chosen": [[places[n.run_id], n.step, environment] for n in cell.numbers],
        "others": [[places[o.run_id], None, environment] for o in own if o.run_id not in chosen],
        "missing": [
            [f"{title}, trial {m.trial.trial_seed}: {m.reason}", m.command] for m in cell.missing
        ],
    }


def _run(record: Record, settings: _Table, grids: _Table) -> dict[str, Any]:
    run, checks = record.run, record.checks
    return {
        "id": record.run_id,
        "state": record.state,
        "trial": record.trial.trial_seed,
        "facts": {
            "trial seed": record.trial.trial_seed,
            "data seed": record.trial.data_seed,
            "hyper-parameter draw": record.draw,
            **(_origin(record) if record.origin == "dgbench" else {"made by": record.origin}),
            "record": record.place,
            "sha256": record.sha256,
        },
        "settings": settings.place(_settings(run["settings"])),
        "command": _command(record),
        "steps": grids.place(checks.steps.tolist()),
        "held_out": {name: _accuracies(record, [f"{name}/main"]) for name in record.test},
        "holdout": _accuracies(record, [f"{name}/holdout" for name in record.train]),
    }


def _origin(record: Record) -> dict[str, Any]:
    """By what code, when and on what a run of dgbench was made."""
    run = record.run
    provenance, hardware = run["provenance"], run["hardware"]
    settings: Mapping[str, Any] = run["settings"]
    return {
        "commit": commit_text(provenance["git"]),
        **{
            f"commit of {settings[section]['name']}": commit_text(state)
            for section, state in provenance.get("source", {}).items()
        },
        "created": provenance["created"],
        "seconds": None if record.total_seconds is None else round(record.total_seconds, 1),
        "machine": _machine(hardware),
        "packages": ", ".join(f"{k} {v}" for k, v in provenance["packages"].items()),
        "data": run["data_fingerprint"],
    }


def _machine(hardware: Hardware) -> str:
    parts = [hardware["cpu"], f"{hardware['threads']} threads"]
    parts += [f"{hardware['devices']} {hardware['accelerator']}"]
    if "float32_products" in hardware:
        parts += [f"products of float32 in {hardware['float32_products']}"]
    return ", ".join(parts)


def _command(record: Record) -> str | None:
    """What runs it again; None for what dgbench did not make."""
    if record.origin != "dgbench":
        return None
    if record.draw:  # by what it drew, which `reproduce` spells out
        return f"dgbench reproduce {record.run_id}"
    return fit_command(record, record.test, record.trial)


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, without the seeds that are facts of a run."""
    return {name: value for name, value in dotted(settings).items() if name not in _SEEDS}


def _accuracies(record: Record, splits: Sequence[str]) -> list[int | None]:
    """Mean accuracy over splits at each check, as integers; None where it is not finite."""
    if not splits or any(split not in record.checks.splits for split in splits):
        return []
    means: npt.NDArray[np.float64] = record.checks.accuracies(splits).mean(axis=1)
    return [None if mean != mean else round(_SCALE * mean) for mean in means.tolist()]
