"""Where a run comes from: versions, commit, hardware. Everything a record says beside numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from dgbench.source import Place, places
from leaderboard import records

_PACKAGES = (
    "dgbench",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "mlxtend",
)


def provenance(names: Mapping[str, str]) -> records.Provenance:
    """Time, command, commits and package versions of this process.

    Args:
        names: of the algorithm as ``algo`` and of the data set as ``data``; of those that are not
            the suite's the commits of their own repositories are told, too.
    """
    own = {key: _state_of(place) for key, place in places(names).items()}
    made: records.Provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        # Without the program's place, which says nothing but how somebody's disk is laid out.
        "argv": ["dgbench", *sys.argv[1:]],
        "git": git_state(Path(__file__).parent.parent),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }
    if own:
        made["source"] = own
    return made


def hardware(devices: int, device: torch.device) -> records.Hardware:
    """What this process runs on, at the precision of float32 products that now holds.

    Args:
        devices: number of devices that train together.
        device: one of them.
    """
    return {
        "cpu": _processor(),
        "amx": bool(torch.cpu.get_capabilities().get("amx_bf16", False)),
        "float32_products": float32_products(device),
        "threads": torch.get_num_threads(),
        "devices": devices,
        "accelerator": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "memory_gb": memory_gb(),
    }


def float32_products(device: torch.device) -> records.Float32Products:
    """What matrix products of float32 numbers are computed in, at the precision that now holds.

    ``medium`` is float32 on one processor and bfloat16 on the next, so this measures: bfloat16 has
    a relative error of 2e-3, TF32 of 3e-4, float32 of 3e-7.

    Args:
        device: where they are computed.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    product = (left.to(device) @ right.to(device)).cpu()
    error = ((product - exact).norm() / exact.norm()).item()
    return "float32" if error < 1e-5 else "tf32" if error < 1e-3 else "bfloat16"


def git_state(folder: Path) -> records.GitState:
    """Commit of the checkout that a folder lies in, and whether its files differ from it.

    Args:
        folder: a folder; an installed package lies in no checkout of ours.
    """
    return _state(folder) if (folder / ".git").exists() else {"commit": None, "dirty": None}


def _state_of(place: Place) -> records.GitState:
    """Commit of the repository that holds a class's file, and whether its code differs from it."""
    try:
        # Also what is not committed yet, but nothing that is ignored, as an environment's files.
        held = _git(place.folder, "ls-files", "-co", "--exclude-standard", "--", str(place.file))
    except (OSError, subprocess.SubprocessError):
        held = ""
    return _state(place.folder, place.pattern) if held else {"commit": None, "dirty": None}


def _state(folder: Path, *patterns: str) -> records.GitState:
    """Commit of the repository around a folder, and whether files in it differ from that."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "-uall", "--", *patterns))
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    # Without locks it only reads: `status` would write what it found into the index.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gb() -> float | None:
    """This machine's memory in units of 2^30 bytes; None where it does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(total / 2**30, 1)
