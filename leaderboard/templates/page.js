"use strict";
(() => {
  const form = document.getElementById("filter");
  const dialog = document.getElementById("runs");
  const boards = [...document.querySelectorAll(".board")];
  const labelled = [...document.querySelectorAll("main [data-label]")];
  const selects = [...form.querySelectorAll("select")];

  // Filter: what is chosen stays in the address, so that a view can be sent to somebody.

  const shows = (label, words) => !words.length || words.some((word) => label.includes(word));

  function filter() {
    const words = form.elements.algorithm.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    for (const element of labelled) {
      element.toggleAttribute("hidden", !shows(element.dataset.label.toLowerCase(), words));
    }
    let tables = 0;
    for (const board of boards) {
      const fits = selects.every((select) => !select.value || board.dataset[select.name] === select.value);
      const filled = board.querySelector(".results tbody tr:not([hidden])") !== null;
      board.hidden = !(fits && filled);
      tables += board.hidden ? 0 : 1;
    }
    document.body.classList.toggle("all", form.elements.more.checked);
    document.getElementById("shown").value = `${tables} of ${boards.length} tables`;
    const state = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
  }

  function restore() {
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      const control = form.elements[name];
      if (control?.type === "checkbox") control.checked = true;
      else if (control) control.value = value;
    }
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());

  // Sort: the best first, again the worst first; what has no number stays last.

  const text = (row, column) => row.cells[column].textContent.trim();
  const number = (row, column) => {
    const { value } = row.cells[column].dataset;
    return value ? Number(value) : NaN;
  };

  function sort(header) {
    const column = header.cellIndex;
    const body = header.closest("table").tBodies[0];
    const before = header.getAttribute("aria-sort");
    const first = header.dataset.order;
    const other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (!column) return sign * text(a, 0).localeCompare(text(b, 0));
      const [x, y] = [number(a, column), number(b, column)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    };
    body.append(...[...body.rows].sort(compare));
    for (const sibling of header.parentNode.cells) sibling.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
  }

  // One algorithm stands out in all plots while the pointer is on its row or on one of its marks.

  function focus(label) {
    document.body.classList.toggle("focused", label !== undefined);
    for (const element of labelled) element.classList.toggle("on", element.dataset.label === label);
  }

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse") focus(event.target.closest("main [data-label]:not(figure)")?.dataset.label);
  });

  // Runs: packed as base64 of gzip of JSON, because 10,000 of them are rarely all looked at.

  const packs = new Map();

  async function unpack(id) {
    if (!packs.has(id)) {
      const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      packs.set(id, JSON.parse(await new Response(stream).text()));
    }
    return packs.get(id);
  }

  function element(name, attributes, ...children) {
    const svg = ["svg", "path", "text", "g"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const percent = (value) => (value === null || value === undefined ? "no number" : `${(value / 100).toFixed(2)} %`);

  // What a cell shows of one run: [run, steps, accuracies held out, selected step].
  const traced = (pack, [place, step, environment]) => {
    const run = pack.runs[place];
    return { run, environment, step, steps: pack.grids[run.steps], accuracies: run.held_out[environment] };
  };

  const selected = ({ steps, accuracies, step }) => accuracies[step === null ? steps.length - 1 : steps.indexOf(step)];

  function curves(traces) {
    const lines = traces.flatMap(({ run, steps, accuracies }) => [
      [steps, accuracies, "curve"],
      [steps, run.holdout, "curve dashed"],
    ]);
    const known = lines.flatMap(([, values]) => values.filter((value) => value !== null));
    if (!known.length) return element("p", { class: "note" }, "No accuracy was measured.");
    const width = 400, height = 200, left = 40, right = 390, top = 10, bottom = 170;
    const end = Math.max(1, ...traces.map(({ steps }) => steps.at(-1) ?? 1));
    const low = 1000 * Math.floor(Math.min(...known) / 1000);
    const high = Math.max(low + 1000, 1000 * Math.ceil(Math.max(...known) / 1000));
    const x = (step) => (left + (step / end) * (right - left)).toFixed(1);
    const y = (value) => (bottom - ((value - low) / (high - low)) * (bottom - top)).toFixed(1);
    const plot = element("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Accuracy over steps" });
    for (const value of [low, (low + high) / 2, high]) {
      plot.append(
        element("path", { class: "grid", d: `M${left} ${y(value)}H${right}` }),
        element("text", { x: left - 6, y: Number(y(value)) + 4, "text-anchor": "end" }, String(value / 100)),
      );
    }
    plot.append(
      element("text", { x: left, y: bottom + 18 }, "0"),
      element("text", { x: right, y: bottom + 18, "text-anchor": "end" }, `${end} steps`),
    );
    for (const [steps, values, kind] of lines) {
      const points = steps.flatMap((step, i) => (values[i] === null || values[i] === undefined ? [] : [`${x(step)} ${y(values[i])}`]));
      if (points.length) plot.append(element("path", { class: `line ${kind}`, d: `M${points.join("L")}` }));
    }
    for (const trace of traces) {
      const value = selected(trace);
      if (trace.step !== null && value !== null) {
        plot.append(element("path", { class: "shape", d: `M${x(trace.step)} ${y(value)}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0` }));
      }
    }
    return plot;
  }

  function command(line) {
    const copy = element("button", { type: "button", class: "copy" }, "Copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(line);
      copy.textContent = "Copied";
    });
    // Lines break between words, never after the hyphens of a flag.
    const words = line.split(/(\s+)/).map((part, place) => (place % 2 ? part : element("span", null, part)));
    return element("div", { class: "command" }, element("pre", null, ...words), copy);
  }

  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

  function list(facts) {
    const entries = Object.entries(facts).filter(([, value]) => value !== null);
    return element("dl", null, ...entries.flatMap(([name, value]) => [element("dt", null, name), element("dd", null, shown(value))]));
  }

  // The inside of a run is made when it is opened: a cell can have a hundred of them.
  function details(pack, trace) {
    const { run, step } = trace;
    const made = element("details", { class: "run" }, element("summary", null,
      element("b", null, `trial ${run.trial}`),
      element("span", null, run.state === "finished" ? percent(selected(trace)) : run.state),
      element("span", null, step === null ? `draw ${run.facts["hyper-parameter draw"]}` : `step ${step}`),
      element("span", null, trace.environment),
      element("code", null, run.id)));
    made.addEventListener("toggle", () => {
      made.append(
        // Of what dgbench did not make nobody knows the command.
        ...(run.command ? [element("h3", null, "Run it again"), command(run.command)] : []),
        element("h3", null, "Curves"), curves([trace]),
        element("h3", null, "Run"), list(run.facts),
        element("h3", null, "Settings"), list(pack.settings[run.settings]));
    }, { once: true });
    return made;
  }

  function missing([what, line]) {
    return element("div", null, element("p", { class: "note partial" }, what), ...(line ? [command(line)] : []));
  }

  function contents(pack, cell) {
    const chosen = cell.chosen.map((item) => traced(pack, item));
    const others = cell.others.map((item) => traced(pack, item));
    const made = [];
    for (const environment of new Set(chosen.map((trace) => trace.environment))) {
      made.push(element("figure", null,
        element("figcaption", null, `Accuracy over steps, %, ${environment} held out`),
        curves(chosen.filter((trace) => trace.environment === environment))));
    }
    if (chosen.length) {
      made.push(element("p", { class: "note" }, "Solid: held out. Dashed: mean holdout of the training environments. Dots: the checks that count."));
    }
    made.push(...cell.missing.map(missing), ...chosen.map((trace) => details(pack, trace)));
    if (others.length) {
      made.push(element("details", { class: "others" },
        element("summary", null, `${others.length} runs that do not count here, at their last check`),
        ...others.map((trace) => details(pack, trace))));
    }
    return made;
  }

  async function open(button) {
    const table = button.closest("table");
    const row = button.closest("tr");
    const { dataset, protocol, rule } = table.closest(".board").dataset;
    const content = document.getElementById("runs-content");
    document.getElementById("runs-title").textContent = `${row.dataset.label}, ${button.dataset.of}`;
    document.getElementById("runs-of").textContent = `${dataset}, ${protocol}, selected by ${rule}`;
    content.className = [...row.querySelector(".swatch").classList].at(-1);
    content.replaceChildren(element("p", { class: "note" }, "Unpacking…"));
    dialog.showModal();
    try {
      const pack = await unpack(table.dataset.pack);
      content.replaceChildren(...contents(pack, pack.cells[table.dataset.place][button.dataset.cell]));
    } catch (error) {
      content.replaceChildren(element("p", { class: "note" }, `The runs cannot be unpacked here (${error}). Browsers of 2023 or newer can.`));
    }
  }

  document.querySelector("main").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.cell) open(button);
    else if (button?.parentNode.matches("thead th")) sort(button.parentNode);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  restore();
  filter();
})();
