"use strict";
// What is shown, and what changes it. Everything of the run is written as text, never as HTML.

let run = JSON.parse(document.getElementById("data").textContent);
const state = { search: 0, x: null, y: null, a: null, b: null, slot: "a" };
const find = (id) => document.getElementById(id);
const search = () => run.searches[state.search];
const rowOf = (n) => search()?.rows.find((row) => row.n === n);

/** An element with properties, texts and other elements in it. */
function made(tag, properties = {}, ...inside) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
}

function better(objective) {
  return objective.direction === "maximize" ? "higher is better" : "lower is better";
}

function marksOf(row) {
  const marks = [];
  if (row.name) marks.push(row.name);
  if (row.n === search().chosen) marks.push("chosen");
  if (row.n === search().largest) marks.push("largest");
  if (!row.feasible) marks.push("breaks a constraint");
  else if (row.front) marks.push("on the front");
  return marks.join(", ");
}

function choose(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => made("option", { value: key, textContent: text })));
  select.value = value;
}

/** What is shown first: what the address says, then the chosen one, or the first on the front. */
function begin() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (asked.has(name) ? Number(asked.get(name)) : null);
  state.search = Math.min(number("search") ?? 0, Math.max(0, run.searches.length - 1)) || 0;
  for (const key of ["x", "y", "a", "b"]) state[key] = number(key);
  settle();
}

/** Make the state one that this search can show. */
function settle() {
  const now = search();
  if (!now) return;
  if (now.figures[`${state.x ?? ""},${state.y}`] === undefined) [state.x, state.y] = now.first;
  const first = now.rows.find((row) => row.front) ?? now.rows[0];
  if (!rowOf(state.a)) state.a = (rowOf(now.chosen) ?? first)?.n ?? null;
  if (!rowOf(state.b) || state.b === state.a) state.b = null;
}

function remember() {
  const said = new URLSearchParams();
  for (const key of ["search", "x", "y", "a", "b"]) if (state[key] !== null) said.set(key, state[key]);
  try { history.replaceState(null, "", `#${said}`); } catch { /* a page without an address, as in a notebook */ }
}

/** Show sub-network `n` as A or B. */
function pick(n, slot = state.slot) {
  if (!rowOf(n)) return;
  if (slot === "b" && n === state.a) { state.b = null; } else { state[slot] = n; }
  if (state.a === state.b) state.b = null;
  drawAll();
}

function shownRows() {
  return ["a", "b"].map((slot) => ({ slot, row: rowOf(state[slot]) })).filter(({ row }) => row);
}

function drawFront() {
  const now = search(), element = find("front-figure");
  const figure = now?.figures[`${state.x ?? ""},${state.y}`];
  const few = !figure || !now.rows.length;
  element.hidden = few;
  find("front-title").textContent = now && now.first[0] === null ? `${now.objectives[0].name} over evaluations` : "Pareto front";
  find("front-hint").textContent = frontHint(now, few);
  if (few) return;
  const data = figure.data.map((trace) => trace.customdata && !trace.text && trace.meta.role !== "reference"
    ? { ...trace, text: trace.customdata.map((n) => now.hover[n]) } : trace);
  const place = (row) => {  // where its point is drawn: at the edge, what lies beyond the axes
    for (const trace of figure.data) {
      const at = trace.customdata?.indexOf(row.n) ?? -1;
      if (at >= 0) return [trace.x[at], trace.y[at]];
    }
    return now.first[0] === null ? [row.n, row.values[0]] : [row.values[state.x], row.values[state.y]];
  };
  for (const { slot, row } of shownRows()) {
    const [x, y] = place(row);
    data.push({
      type: "scatter", mode: "markers+text", x: [x], y: [y], text: [slot.toUpperCase()], textposition: "top right",
      textfont: { size: 13, color: colour("ink"), weight: 700 }, showlegend: false, hoverinfo: "skip", meta: { role: slot },
      marker: { symbol: "circle-open", size: 15, line: { width: 2.4 } },
    });
  }
  draw(element, { data, layout: figure.layout });
  const label = now.first[0] === null ? "" : ` ${now.objectives[state.y].name} over ${now.objectives[state.x].name}`;
  element.setAttribute("aria-label", `Pareto front,${label}; the table below has its numbers`);
  if (!element.wired) {
    element.wired = true;
    element.on("plotly_click", (event) => {
      const point = event.points.find((found) => Number.isInteger(found.customdata));
      if (point) pick(point.customdata, event.event?.shiftKey ? "b" : state.slot);
    });
  }
}

function frontHint(now, few) {
  if (!now || few) return "There is nothing to draw: no sub-network has been measured yet.";
  const said = ["Point at a sub-network for its configuration; click one to see its layers below, with Shift to compare it."];
  if (now.rows.length === 1) said.unshift("One sub-network was measured, so there is no front yet.");
  else if (now.first[0] === null) said.unshift("This search has one objective, so there is no front.");
  else if (now.objectives.length > 2) said.unshift(
    "The step line is the front of these two objectives; open circles are on that of all, and not of these two.");
  if (now.constraints.length) said.push(`Crosses break ${now.constraints.join(" or ")}.`);
  return said.join(" ");
}

/** A difference with its error, which takes the two as independent. */
function difference(a, b, i) {
  const by = b.values[i] - a.values[i], error = Math.hypot(a.stderrs[i] || 0, b.stderrs[i] || 0);
  const sign = by > 0 ? "+" : by < 0 ? "−" : "", size = Math.abs(by);
  if (error > 0) {
    const digits = Math.min(12, Math.max(0, -Math.floor(Math.log10(error)) + (error / 10 ** Math.floor(Math.log10(error)) < 5 ? 1 : 0)));
    const said = (value) => (value < 1e15 ? value.toFixed(digits) : value.toExponential(1).replace("e+", "e"));
    return `${sign}${said(size)} ± ${said(error)}`;
  }
  const percent = a.values[i] ? `${sign}${(100 * size / Math.abs(a.values[i])).toPrecision(3)} %` : `${sign}${size.toPrecision(3)}`;
  return by === 0 ? "0" : percent;
}

function drawCard() {
  const now = search(), shown = shownRows(), card = find("card");
  card.hidden = !shown.length;
  if (!shown.length) return;
  const heads = shown.map(({ slot, row }) => made("h3", {}, made("span", { className: `key ${slot}` }),
    `${slot.toUpperCase()} · evaluation ${row.n} `, made("small", { textContent: marksOf(row) })));
  const both = shown.length === 2;
  const values = (i) => [...shown.map(({ row }) => made("td", { textContent: row.texts[i] })),
    ...(both ? [made("td", { textContent: difference(shown[0].row, shown[1].row, i) })] : [])];
  const named = (objective) => made("th", { scope: both ? "rowgroup" : "row", colSpan: both ? 3 : 1 },
    objective.name, made("small", { textContent: better(objective) }));
  // Three numbers do not fit beside a name.
  const bodies = now.objectives.map((objective, i) => made("tbody", {}, ...(both
    ? [made("tr", {}, named(objective)), made("tr", {}, ...values(i))] : [made("tr", {}, named(objective), ...values(i))])));
  const head = made("thead", {}, made("tr", {}, ...["A", "B", "B − A"].map((text) =>
    made("th", { scope: "col", textContent: text }))));
  card.replaceChildren(...heads, made("table", { className: both ? "two" : "" }, ...(both ? [head] : []), ...bodies));
  if (now.fixed.length) card.append(made("p", { className: "hint", textContent: `In all: ${now.fixed.join(", ")}.` }));
}

function drawLayers() {
  const now = search(), shown = shownRows(), element = find("layers-figure");
  const none = !shown.length || !now.layers.length;
  find("layers").hidden = none;
  if (none) return;
  const skips = now.layers.some((kind) => kind.keeps.some((keep) => keep !== null));
  find("layers-hint").textContent = (shown.length === 2 ? "A is the left bar of each pair. " : "Choose a B to compare. ")
    + (skips ? "A cross stands where a block is left out." : "");
  draw(element, layersFigure(now, shown));
  element.setAttribute("aria-label", `Layers of ${shown.map(({ row }) => `evaluation ${row.n}`).join(" and ")}`);
  const { head, rows } = layersTable(now, shown);
  find("layers-table").querySelector("div").replaceChildren(made("table", {},
    made("thead", {}, made("tr", {}, ...head.map((text) => made("th", { scope: "col", textContent: text })))),
    made("tbody", {}, ...rows.map((cells) => made("tr", {}, ...cells.map((text) => made("td", { textContent: text })))))));
  find("take").hidden = !now.takes;
  find("take").querySelector("code").textContent = [
    "from nas_engine import SearchResult, SuperNetwork", "",
    `run = ${JSON.stringify(run.name)}  # the run folder`,
    'result = SearchResult.load(run, SuperNetwork.load(f"{run}/supernet"))',
    `subnet = result.subnetwork(result.frame.loc[${state.a}])`,
    'subnet.save_pretrained("compressed/")',
  ].join("\n");
}

function drawRows() {
  const now = search(), front = now ? now.rows.filter((row) => row.front) : [];
  find("rows").hidden = !front.length;
  if (!front.length) return;
  find("rows-title").textContent = now.objectives.length > 1 ? "On the front" : "Best";
  const by = now.first[0] ?? 0;
  const head = made("tr", {}, made("th", { scope: "col", textContent: "evaluation" }),
    ...now.objectives.map((o) => made("th", { scope: "col" }, o.name, made("small", { textContent: better(o) }))),
    made("th", { scope: "col" }), made("td", {}));
  const body = [...front].sort((p, q) => p.values[by] - q.values[by]).map((row) => {
    const buttons = ["a", "b"].map((slot) => made("button", {
      type: "button", textContent: slot.toUpperCase(), onclick: () => pick(row.n, slot),
      ariaLabel: `Show evaluation ${row.n} as ${slot.toUpperCase()}`, ariaPressed: String(state[slot] === row.n),
    }));
    return made("tr", { className: row.n === now.chosen ? "mark" : "" }, made("th", { scope: "row", textContent: row.n }),
      ...row.texts.map((text) => made("td", { textContent: text })),
      made("td", { className: "words", textContent: marksOf(row).replace(/,? ?on the front$/, "") }),
      made("td", { className: "buttons" }, ...buttons));
  });
  const active = document.activeElement?.getAttribute?.("aria-label");
  find("rows-table").replaceChildren(made("thead", {}, head), made("tbody", {}, ...body));
  if (active?.startsWith("Show evaluation")) find("rows-table").querySelector(`[aria-label="${active}"]`)?.focus();
}

function drawControls() {
  const now = search();
  find("search-control").hidden = run.searches.length < 2;
  choose(find("search"), run.searches.map((found, i) => [i, found.label]), state.search);
  find("axes-controls").hidden = !now || now.objectives.length < 2;
  if (!now) return;
  const objectives = now.objectives.map((objective, i) => [i, objective.name]);
  choose(find("x"), objectives, state.x);
  choose(find("y"), objectives, state.y);
  const named = now.rows.map((row) => [row.n, `${row.n}${marksOf(row) ? ` · ${marksOf(row)}` : ""}`]);
  choose(find("a"), named, state.a);
  choose(find("b"), [["", "none"], ...named], state.b ?? "");
}

function drawRest() {
  const now = search(), volume = now?.hypervolume;
  find("volume").hidden = !volume || (!volume.figure && !volume.text);
  if (volume) {
    find("volume").querySelector("p").textContent = volume.text;
    find("volume-figure").hidden = !volume.figure;
    if (volume.figure) draw(find("volume-figure"), volume.figure);
  }
  find("sensitivity").hidden = !now?.sensitivity;
  if (now?.sensitivity) {
    draw(find("sensitivity-figure"), now.sensitivity.figure);
    [find("least").textContent, find("most").textContent] = now.sensitivity.ends;
  }
  find("healed").hidden = !run.healed;
  if (run.healed) draw(find("healed-figure"), run.healed);
}

function drawAll() {
  settle();
  drawControls();
  drawFront();
  drawCard();
  drawLayers();
  drawRows();
  drawRest();
  remember();
}

/** Ask the server now and then whether the run has gone on. */
async function follow() {
  const began = performance.now();
  try {
    const answer = await fetch(`data.json?state=${encodeURIComponent(run.state)}`, { cache: "no-store" });
    if (answer.status === 200) {
      const { sections, ...next } = await answer.json();
      run = next;
      for (const [name, html] of Object.entries(sections)) find(name).innerHTML = html;
      drawAll();
    }
    find("gone")?.remove();
  } catch {
    if (!find("gone")) find("head").prepend(made("p", {
      id: "gone", className: "note", textContent: "The server has ended; this is what it last said.",
    }));
  }
  // A long run takes the server a while to read; it is asked the more seldom for it.
  setTimeout(follow, Math.max(2000, 4 * (performance.now() - began)));
}

for (const axis of ["x", "y"]) find(axis).onchange = () => {
  const other = axis === "x" ? "y" : "x", value = Number(find(axis).value);
  if (value === state[other]) state[other] = state[axis];  // the same twice: they change places
  state[axis] = value;
  drawAll();
};
for (const slot of ["a", "b"]) find(slot).onchange = () => {
  const value = find(slot).value;
  if (value === "") { state.b = null; drawAll(); } else pick(Number(value), slot);
};
find("search").onchange = () => {
  Object.assign(state, { search: Number(find("search").value), x: null, y: null, a: null, b: null });
  drawAll();
};
for (const input of document.getElementsByName("slot")) input.onchange = () => { state.slot = input.value; };
find("theme").onclick = () => {
  const dark = getComputedStyle(document.body).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  drawAll();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
NARROW.addEventListener("change", drawAll);
begin();
drawAll();
if (run.state) follow();
