"""Draws the README's pictures as its commands do: python -m tests.make_pictures."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import matplotlib as mpl
import torch

from datamodules.colored_mnist import ColoredMNIST
from tests.dgbench.tiny import command
from tests.test_readme import blocks, commands

OUT = Path(__file__).parent.parent / ".github" / "environments.png"
ICP = OUT.with_name("icp.png")
SHOWN = 14


def main() -> None:
    """One row an environment: its first main samples, sorted by label."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    data = ColoredMNIST(test_envs=[2], image_size=28)
    figure, axes = plt.subplots(3, SHOWN, figsize=(10, 2.9))
    for index, (name, row) in enumerate(zip(data.environment_names, axes, strict=True)):
        environment = data.environment(index)
        first = environment.main[:SHOWN]
        order = first[environment.targets[first].argsort(stable=True)]
        for axis, sample in zip(row, order, strict=True):
            red, green = environment.inputs[sample]
            axis.imshow(torch.stack([red, green, torch.zeros_like(red)], dim=-1))
            axis.set_title(f"label {int(environment.targets[sample])}", fontsize=7)
            axis.set_axis_off()
        row[0].text(-10, 14, name, ha="right", va="center", fontsize=10)
    figure.subplots_adjust(left=0.08, right=0.99, top=0.92, bottom=0.02, wspace=0.08)
    figure.savefig(OUT, dpi=110)


def causes() -> None:
    """What the README's `icp` command draws."""
    (example,) = [block for block in blocks("python") if "farms.csv" in block]
    (arguments,) = [arguments for arguments in commands() if arguments[0] == "icp"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(example, {})
        command(*arguments)
        shutil.copy("causes/icp.png", ICP)


if __name__ == "__main__":
    main()
    causes()
