"""The page in a browser: sorting, filtering, the way down to runs, phones and dark mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderboard.page import page
from tests.leaderboard.browser import chromium, errors, opened
from tests.leaderboard.make_board import DATA_SETS, synthetic_board

GAP = (("group_dro", "45deg", 3), ("group_dro", "45deg", 4))
FIRST = "document.querySelector('.board:not([hidden]) .results')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(page(synthetic_board(leave_out=GAP)), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser: Any, file: Path) -> Iterator[Any]:
    """The page, opened anew; what it complains of fails the test."""
    opened(browser, file)
    yield browser
    assert errors(browser) == []


def click(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def column(browser: Any, title: str) -> list[str]:
    """The texts of a column of the first table shown, from the top down, of visible rows."""
    return browser.execute_script(
        f"const table = {FIRST};"
        "const at = [...table.tHead.rows[1].cells].findIndex("
        "  (cell) => cell.textContent.trim() === arguments[0]);"
        "return [...table.tBodies[0].rows].filter((row) => !row.hidden)"
        "  .map((row) => row.cells[at].textContent.trim());",
        title,
    )


def sort_by(browser: Any, title: str) -> None:
    browser.execute_script(
        f"[...{FIRST}.tHead.rows[1].cells].find("
        "  (cell) => cell.textContent.trim() === arguments[0]).querySelector('button').click()",
        title,
    )


def choose(browser: Any, name: str, value: str) -> None:
    browser.execute_script(
        "const control = document.querySelector(`#filter [name=${arguments[0]}]`);"
        "control.value = arguments[1];"
        "control.dispatchEvent(new Event('input', { bubbles: true }));",
        name,
        value,
    )


def tables(browser: Any) -> list[tuple[str, str]]:
    found = browser.execute_script(
        "return [...document.querySelectorAll('.board:not([hidden])')]"
        ".map((board) => [board.dataset.dataset, board.dataset.rule])"
    )
    return [(dataset, rule) for dataset, rule in found]


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split("±")[0]) for text in texts if "†" not in text]


def test_sorting_goes_from_the_best_to_the_worst_and_back(shown: Any) -> None:
    names = column(shown, "Algorithm")
    assert names == sorted(names)
    sort_by(shown, "+90%")
    best_first = numbers(column(shown, "+90%"))
    assert best_first == sorted(best_first, reverse=True)
    assert best_first != sorted(best_first)
    sort_by(shown, "+90%")
    assert numbers(column(shown, "+90%")) == best_first[::-1]
    sort_by(shown, "Algorithm")
    assert column(shown, "Algorithm") == names


def test_incomplete_cells_stay_last_in_either_order(shown: Any) -> None:
    choose(shown, "dataset", "rotated_mnist")
    for _ in range(2):
        sort_by(shown, "45deg")
        cells = column(shown, "45deg")
        assert cells[-1] == "3 of 5 †"
        assert len(numbers(cells)) == 4


def test_filters_combine_and_the_address_keeps_them(shown: Any, file: Path) -> None:
    everything = tables(shown)
    assert {dataset for dataset, _ in everything} == set(DATA_SETS)
    choose(shown, "dataset", "pacs")
    choose(shown, "rule", "train_val")
    choose(shown, "algorithm", "IRM, rex")
    assert tables(shown) == [("pacs", "train_val")]
    assert column(shown, "Algorithm") == ["irm", "mm_rex", "vrex"]
    said = shown.execute_script("return document.getElementById('shown').value")
    assert said == f"1 of {len(everything)} tables"
    address = shown.current_url
    opened(shown, file, "#" + address.partition("#")[2])
    assert tables(shown) == [("pacs", "train_val")]
    assert column(shown, "Algorithm") == ["irm", "mm_rex", "vrex"]
    choose(shown, "algorithm", "nobody")
    assert tables(shown) == []


def test_a_filter_reaches_the_plots(shown: Any) -> None:
    visible = (
        "return [...document.querySelectorAll('#table-0 .plot [data-label]')]"
        ".filter((mark) => !mark.hasAttribute('hidden')).map((mark) => mark.dataset.label)"
    )
    assert {"erm", "irm"} < set(shown.execute_script(visible))
    choose(shown, "algorithm", "vrex")
    assert set(shown.execute_script(visible)) == {"vrex"}


def test_more_columns_are_shown_when_asked_for(shown: Any) -> None:
    displayed = (
        "return [...document.querySelectorAll('#table-0 thead th')]"
        ".filter((cell) => cell.offsetParent !== null).map((cell) => cell.textContent.trim())"
    )
    assert "ECE" not in shown.execute_script(displayed)
    click(shown, "[name=more]")
    assert "ECE" in shown.execute_script(displayed)


def wait_for(browser: Any, selector: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda b: b.find_elements(By.CSS_SELECTOR, selector))


def test_a_cell_leads_to_its_runs(shown: Any) -> None:
    click(shown, "#table-0 tbody tr:nth-child(3) td button")
    wait_for(shown, "dialog[open] .run")
    text = shown.execute_script("return document.querySelector('dialog').innerText")
    assert text.startswith("irm, +90%\n")
    assert [f"trial {trial}" in text for trial in range(6)] == [True] * 5 + [False]
    assert shown.execute_script("return document.querySelectorAll('dialog .curve').length") == 10
    click(shown, "dialog .run summary")
    wait_for(shown, "dialog .run pre")
    run = shown.execute_script("return document.querySelector('dialog .run').innerText")
    assert "dgbench fit --algo.lr=0.001 --algo.name=irm" in run
    assert "--test-env=+90% --trial-seed=0 --data-seed=0" in run
    for fact in ("5493119bb8417146780db6f7924855af79e4aa18", "data seed", "algo.lr\n0.001"):
        assert fact in run
    click(shown, "dialog form button")
    assert not shown.execute_script("return document.querySelector('dialog').open")


def test_an_incomplete_cell_leads_to_the_command_that_fills_it(shown: Any) -> None:
    choose(shown, "dataset", "rotated_mnist")
    click(shown, ".board:not([hidden]) td.partial button")
    wait_for(shown, "dialog[open] pre")
    commands = shown.execute_script(
        "return [...document.querySelectorAll('dialog pre')].map((line) => line.textContent)"
    )
    assert [command[-38:] for command in commands] == [
        f"--test-env=45deg --trial-seed={t} --data-seed={t}"[-38:] for t in (3, 4)
    ]


def test_an_average_leads_to_the_runs_of_all_environments(shown: Any) -> None:
    click(shown, '#table-0 [data-cell="0:all"]')
    wait_for(shown, "dialog[open] .run")
    assert shown.execute_script("return document.querySelectorAll('dialog .run').length") == 15


def test_dark_mode_has_contrast(shown: Any) -> None:
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    light = [luminance(colour) for colour in shown.execute_script(colours)]
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        dark = [luminance(colour) for colour in shown.execute_script(colours)]
    finally:
        shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light[0] > 0.9 > 0.1 > light[1]
    assert dark[0] < 0.1 < 0.7 < dark[1]


@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_trials_are_points_that_can_be_seen(file: Path, width: int, phone: bool) -> None:
    with chromium(width=width, height=844, phone=phone) as browser:
        opened(browser, file)
        found = browser.execute_script(
            "return [...document.querySelectorAll('#table-0 .plots[open] .trials')].map((dots) => {"
            "  const style = getComputedStyle(dots); const plot = dots.ownerSVGElement;"
            "  const at = dots.getBoundingClientRect();"
            "  return [parseFloat(style.strokeWidth) * plot.clientWidth / 400, style.strokeLinecap,"
            "    at.left > 0 && at.right < document.documentElement.clientWidth, style.opacity];"
            "});"
        )
        assert len(found) == 5 * 4  # algorithms; environments and their average
        for diameter, ends, inside, opacity in found:
            assert diameter > 2.5
            assert ends == "round"
            assert inside
            assert float(opacity) > 0.5


def luminance(colour: str) -> float:
    red, green, blue = (int(part) / 255 for part in colour[4:-1].split(","))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_phone_scrolls_tables_and_not_the_page(file: Path) -> None:
    with chromium(width=390, height=844, phone=True) as browser:
        opened(browser, file)
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) == 390
        # However long a row's name, it stays in its cell.
        over = browser.execute_script(
            "const label = document.querySelector('#table-0 tbody .algorithm > span');"
            "label.textContent = 'mm_rex'; const more = document.createElement('span');"
            "more.className = 'variant'; more.textContent = `(lambda_min=${'4'.repeat(60)})`;"
            "label.append(more); const cell = label.closest('th');"
            "return [cell.scrollWidth - cell.clientWidth, cell.offsetWidth]"
        )
        assert over[0] == 0
        assert over[1] <= 0.4 * 390
        click(browser, "#table-0 td button")
        wait_for(browser, "dialog[open] .run")
        click(browser, "dialog .run summary")
        wait_for(browser, "dialog .run pre")
        assert browser.execute_script(f"{wide}.valueOf()") == 390
        inside = "const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth"
        assert browser.execute_script(inside) == 0
        assert errors(browser) == []
