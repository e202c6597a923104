"use strict";
// The layers of one sub-network, or of two beside each other.

/** What a kind of gene says of each layer: its value, 0 where the block is left out, null where there is no such gene. */
function valuesOf(kind, row, genes) {
  return kind.genes.map((gene, layer) => {
    const keep = kind.keeps[layer];
    if (keep !== null && !genes[keep][row.genome[keep]]) return 0;
    return gene === null ? kind.fixed[layer] : genes[gene][row.genome[gene]];
  });
}

/** Whether the block that a kind is about is left out, by layer. */
function leftOut(kind, row, genes) {
  return kind.keeps.map((keep) => keep !== null && !genes[keep][row.genome[keep]]);
}

function titled(kind) {
  return kind.unit ? `${kind.label} (${kind.unit})` : kind.label;
}

/** Bars by depth, a panel a kind. `shown` has a `slot`, "a" or "b", and a row each. */
function layersFigure(search, shown) {
  const kinds = search.layers, data = [], annotations = [];
  const each = 122, height = kinds.length * each + 74;
  const layout = { barmode: "group", bargap: 0.25, bargroupgap: 0.05, height, showlegend: false, hovermode: "x unified" };
  kinds.forEach((kind, i) => {
    const name = i ? String(i + 1) : "", bottom = 1 - (i + 1) / kinds.length;
    layout[`yaxis${name}`] = {
      domain: [bottom + 0.04 / kinds.length, bottom + 0.76 / kinds.length], range: [0, kind.most * 1.05], nticks: 4,
      automargin: true, fixedrange: true, zeroline: true, ...(kind.unit === "bits" ? { tickvals: [0, 4, 8, 16] } : {}),
    };
    annotations.push({
      text: titled(kind), x: 0, xref: "paper", xanchor: "left", y: bottom + 0.8 / kinds.length, yref: "paper",
      yanchor: "bottom", showarrow: false, font: { size: 13, color: colour("ink") },
    });
    for (const { slot, row } of shown) {
      const letter = slot.toUpperCase(), values = valuesOf(kind, row, search.genes);
      const axes = { xaxis: "x", yaxis: `y${name}`, offsetgroup: slot, meta: { role: slot }, name: letter };
      data.push({
        type: "bar", x: values.map((_, layer) => layer), y: values, ...axes,
        marker: { line: { width: 0 } },
        customdata: leftOut(kind, row, search.genes).map((out) => (out ? "left out" : "")),
        hovertemplate: `%{y} ${kind.unit} %{customdata}<extra>${letter}</extra>`,
      });
    }
    const out = shown.map(({ slot, row }) => ({ slot, layers: leftOut(kind, row, search.genes) }));
    for (const { slot, layers } of out) {
      const where = layers.flatMap((is, layer) => (is ? [layer] : []));
      const beside = shown.length === 1 ? 0 : slot === "a" ? -0.19 : 0.19;
      if (where.length) data.push({
        type: "scatter", mode: "markers", x: where.map((layer) => layer + beside), y: where.map(() => kind.most * 0.07),
        xaxis: "x", yaxis: `y${name}`, hoverinfo: "skip", meta: { role: slot },
        marker: { symbol: "x-thin", size: NARROW.matches ? 4 : 6, line: { width: 1.4 } },
      });
    }
  });
  const depth = Math.max(...kinds.map((kind) => kind.genes.length));
  layout.xaxis = {
    tick0: 0, dtick: Math.max(1, Math.ceil(depth / (NARROW.matches ? 8 : 16))), title: { text: "layer" }, anchor: `y${kinds.length > 1 ? kinds.length : ""}`, fixedrange: true, showgrid: false, zeroline: false,
    automargin: true, range: [-0.6, depth - 0.4],
  };
  return { data, layout: { ...layout, annotations } };
}

/** The same values as rows of texts, with a head. */
function layersTable(search, shown) {
  const head = ["layer", ...search.layers.flatMap((kind) => shown.map(({ slot }) =>
    shown.length > 1 ? `${titled(kind)}, ${slot.toUpperCase()}` : titled(kind)))];
  const count = Math.max(0, ...search.layers.map((kind) => kind.genes.length));
  const columns = search.layers.flatMap((kind) => shown.map(({ row }) => {
    const out = leftOut(kind, row, search.genes);
    return valuesOf(kind, row, search.genes).map((value, i) => (out[i] ? "left out" : value === null ? "" : String(value)));
  }));
  const rows = Array.from({ length: count }, (_, i) => [String(i), ...columns.map((column) => column[i] ?? "")]);
  return { head, rows };
}
