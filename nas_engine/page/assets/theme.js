"use strict";
// What all figures share: colours of the theme, fonts, and one way to draw.

const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;

/** The colour that a variable of the style sheet has now, in the theme that is shown. */
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

const NARROW = matchMedia("(max-width: 560px)");
const TOUCH = matchMedia("(pointer: coarse)");
// What a trace is, as its meta says, and the variable that gives its colour.
const COLOURS = {
  dominated: "faint", infeasible: "faint", elsewhere: "pale", front: "accent", largest: "ink",
  reference: "ink", chosen: "chosen", a: "accent", b: "second",
};
const CONFIG = {
  displaylogo: false,
  showSendToCloud: false, // nothing leaves this page
  plotlyServerURL: "",
  responsive: true,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: { format: "png", scale: 2 },
};

function themedTrace(trace) {
  const role = trace.meta?.role;
  if (role === "heat") {
    trace.colorscale = [[0, colour("surface")], [1, colour("accent")]];
  } else if (role in COLOURS) {
    const chosen = colour(COLOURS[role]);
    if (trace.marker) trace.marker = { ...trace.marker, color: chosen, line: { ...trace.marker.line, color: chosen } };
    if (trace.line) trace.line = { ...trace.line, color: chosen };
    for (const error of ["error_x", "error_y"]) if (trace[error]) trace[error] = { ...trace[error], color: chosen };
  }
  return trace;
}

function themedAxis(axis) {
  const line = colour("line");
  return {
    gridcolor: colour("grid"), linecolor: line, zerolinecolor: line, tickcolor: line, ...axis,
    title: { ...axis.title, standoff: 10, font: { size: 13, color: colour("soft") } },
    tickfont: { size: 12, color: colour("soft") },
  };
}

/** Draw a figure of the document in an element; the figure itself stays as it is. */
function draw(element, figure, more = {}) {
  const layout = structuredClone({ ...figure.layout, ...more });
  for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) layout[key] = themedAxis(layout[key]);
  if (layout.height) element.style.height = `${layout.height}px`;
  const font = getComputedStyle(document.body).fontFamily;
  return Plotly.react(element, structuredClone(figure.data).map(themedTrace), {
    margin: { l: 8, r: 8, t: 8, b: 8, autoexpand: true, ...layout.margin },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    dragmode: TOUCH.matches || NARROW.matches ? false : "zoom",
    hoverlabel: {
      align: "left", bgcolor: colour("surface"), bordercolor: colour("line"),
      font: { family: font, size: NARROW.matches ? 11 : 13, color: colour("ink") },
    },
    ...layout,
    font: { family: font, size: 12, color: colour("ink") },
    modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: colour("faint"), activecolor: colour("accent") },
    legend: {
      ...layout.legend, font: { size: NARROW.matches ? 10.5 : 12, color: colour("soft") },
      ...(NARROW.matches ? { entrywidthmode: "fraction", entrywidth: 0.48 } : {}),
    },
  }, { ...CONFIG, displayModeBar: NARROW.matches ? false : "hover" });
}
