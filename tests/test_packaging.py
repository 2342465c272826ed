"""What is installed is what is here: a wheel with its configurations, run from anywhere."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.dgbench.tiny import TINY

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_holds_three_packages_their_data_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"dgbench", "datamodules", "leaderboard"}
    assert "dgbench/configs/colored_mnist/digits/irm.yaml" in names
    assert "leaderboard/schemas/run.json" in names
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"dgbench/{path}" for path in configs} <= set(names)


def test_it_runs_from_a_folder_that_holds_the_same_names(installed, tmp_path):
    for name in ("datamodules", "leaderboard", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    call = [sys.executable, "-m", "dgbench", "fit", "--algo", "irm", "--test-env", "2", *TINY]
    done = subprocess.run(
        call,
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Settings of configs/colored_mnist/digits/irm.yaml" in done.stdout
    assert "Record: runs/colored_mnist/irm/" in done.stdout


def test_the_installed_package_is_the_one_that_ran(installed, tmp_path):
    source = "import dgbench.settings as s; print(s.__file__, s.configs())"
    shown = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.split() == [
        str(installed / "dgbench" / "settings.py"),
        str(installed / "dgbench" / "configs"),
    ]
