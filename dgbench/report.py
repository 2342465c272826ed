"""What a run shows when it has finished: one table, read from its record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leaderboard import records

_RULES = {
    "last": "the last check",
    "train_val": "the best mean holdout accuracy of the training environments",
    "oracle": "the last check; oracle chooses only between runs, by the held-out holdout",
    "leave_one_out": "several runs that hold out one more environment each",
}

_DIGITS = 12  # of a commit, where a line has room for no more

_MARKS: dict[records.Role, str] = {"train": "", "test": " (held out)", "unused": " (unused)"}


def show(console: Console, run: records.Run) -> None:
    """Prints the table of a finished run, the selection, and where the record is.

    Args:
        console: where to print.
        run: the run, with ``done``.
    """
    assert run.done is not None
    settings = run.run["settings"]
    rule = settings["selection"]
    selected = run.done["selected"].get(rule)
    step = run.done["last_step"] if selected is None else selected
    roles = {environment["name"]: environment["role"] for environment in run.run["environments"]}
    console.print(_table(settings, roles, step, _check(run, step)["splits"]))
    console.print(f"Selected by {rule}: {_RULES[rule]}.", highlight=False)
    console.print(_other_choice(run, rule), highlight=False)
    conclusion = _check(run, step).get("conclusion")
    if conclusion is not None:
        console.print(_sets(conclusion))
        console.print(escape(conclusion["text"]), highlight=False)
    if run.done["status"] == "diverged":
        last = run.done["last_step"]
        console.print(f"The run diverged: at step {last} its training is not finite any more.")
    products = run.run["hardware"].get("float32_products", "float32")
    if products != "float32":
        console.print(
            f"matmul_precision {settings['matmul_precision']}: products of float32 numbers were "
            f"computed in {products} on this machine.",
            highlight=False,
        )
    console.print(f"Record: {escape(str(run.folder))}", highlight=False, soft_wrap=True)


def show_finished_earlier(console: Console, run: records.Run) -> None:
    """Says that a run was not trained now, when it was and by what code.

    Args:
        console: where to print.
        run: the run, with ``done``.
    """
    settings: Mapping[str, Any] = run.run["settings"]
    provenance = run.run["provenance"]
    created = datetime.fromisoformat(provenance["created"])
    commits = {"dgbench": provenance["git"]} | {
        settings[section]["name"]: state for section, state in provenance.get("source", {}).items()
    }
    told = [
        f"{name} at commit {records.commit_text(state, _DIGITS)}"
        for name, state in commits.items()
        if state["commit"] is not None
    ]
    when = ", ".join([f"{created:%Y-%m-%d %H:%M} UTC", *told])
    console.print(
        f"Finished earlier ({when}); --force trains it again.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def show_scores(
    console: Console,
    settings: Mapping[str, Any],
    step: int,
    splits: Mapping[str, records.SplitMetrics],
) -> None:
    """Prints the table of a checkpoint that was scored anew.

    Args:
        console: where to print.
        settings: the settings of its run.
        step: the step it was written at.
        splits: metrics by ``<environment>/<split>``.
    """
    names = dict.fromkeys(split.rpartition("/")[0] for split in splits)
    roles = {name: _role(settings, name) for name in names}
    console.print(_table(settings, roles, step, splits))


def _role(settings: Mapping[str, Any], name: str) -> records.Role:
    if name in settings["test_env"]:
        return "test"
    return "train" if name in settings["train_env"] else "unused"


def _check(run: records.Run, step: int) -> records.CheckLine:
    return next(line for line in run.checks if line["step"] == step)


def _table(
    settings: Mapping[str, Any],
    roles: Mapping[str, records.Role],
    step: int,
    splits: Mapping[str, records.SplitMetrics],
) -> Table:
    algorithm, data, protocol = (
        settings["algo"]["name"],
        settings["data"]["name"],
        settings["protocol"],
    )
    title = f"{algorithm} on {data} ({protocol}), step {step}"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("environment")
    for column in ("main\naccuracy", "holdout\naccuracy", "main\nloss", "main calibration\nerror"):
        table.add_column(column, justify="right")
    for name, role in roles.items():
        main, holdout = splits.get(f"{name}/main"), splits.get(f"{name}/holdout")
        table.add_row(
            escape(name) + _MARKS[role],
            _percent(main and main["accuracy"]),
            _percent(holdout and holdout["accuracy"]),
            _number(main and main["nll"]),
            _number(main and main["ece"]),
            style="bold" if role == "test" else None,
        )
    return table


def _other_choice(run: records.Run, rule: str) -> str:
    """What `train_val` would have picked; where that is the rule, what the last check has."""
    assert run.done is not None
    other: records.SelectionRule = "last" if rule == "train_val" else "train_val"
    step = run.done["selected"].get(other)
    if step is None:
        return f"{other} could not have chosen: it needs finite accuracies on training holdouts."
    splits = _check(run, step)["splits"]
    accuracies = ", ".join(
        f"{_percent(splits[f'{name}/main']['accuracy'])} in {escape(name)}"
        for name in run.run["settings"]["test_env"]
    )
    return f"{other} would have picked step {step}: {accuracies}."


def _sets(conclusion: records.Conclusion) -> Table:
    """Every set of variables that was tested; the one that predicts stands out."""
    table = Table("set of variables")
    for column in ("p-value", "held-out\nloss"):
        table.add_column(column, justify="right")
    table.add_column("")
    for tested in conclusion["sets"]:
        accepted = tested["p_value"] > conclusion["alpha"]
        predicts = tested["variables"] == conclusion["predictor"]
        table.add_row(
            escape("{" + ", ".join(tested["variables"]) + "}"),
            f"{tested['p_value']:.3f}"
            if tested["p_value"] >= 0.001
            else f"{tested['p_value']:.0e}",
            _number(tested["loss"]),
            ("accepted" if accepted else "rejected") + (", predicts" if predicts else ""),
            style="bold" if predicts else None,
        )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
