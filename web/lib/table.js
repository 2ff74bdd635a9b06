// A table of features that fire: rank, number, name, where, how strongly, on how many tokens.
// A click adds a feature to a panel.
import { app } from "../../../scripts/app.js";
import { el, short } from "./dom.js";
import { executionNodes } from "./graph.js";
import { panelOf } from "./mixer.js";
import { nameCell, refreshNames } from "./names.js";

export function drawTable(node, payload) {
  const rows = Array.isArray(payload.rows) ? payload.rows : [];
  const largest = Math.max(...rows.map((row) => row.value), 1e-12);
  const pictured = rows.some((row) => row.heat);
  const told = el("div", { className: "sae-steering-message", role: "status" });
  const head = ["#", "feature", "name", pictured ? "where" : undefined, payload.contrast ? "difference" : "activation", "tokens", ""];
  queueMicrotask(() => refreshNames({ ...payload, rows }));
  const body = rows.map((row, rank) =>
    el(
      "tr",
      { title: row.note ?? "", onclick: () => add(payload, row, told) },
      cell(rank + 1, "sae-steering-quiet"),
      cell(row.feature, "sae-steering-index"),
      nameCell(cell(row.name ?? "", "sae-steering-called"), row.feature),
      pictured ? el("td", {}, row.heat ? thumbnail(row.heat, row.feature) : "") : undefined,
      el("td", { className: "sae-steering-bar" }, bar(row.value / largest), el("span", { textContent: short(row.value) })),
      cell(`${short(100 * row.share)} %`, "sae-steering-quiet"),
      el("td", {}, el("button", {
        type: "button", className: "sae-steering-take", textContent: "+", title: "Add to a Feature Mixer",
        "aria-label": `Add feature ${row.feature} to a Feature Mixer`,
      })),
    ),
  );
  return el(
    "div",
    { className: "sae-steering-table", "data-fingerprint": payload.fingerprint },
    el("div", { className: "sae-steering-title", textContent: payload.title ?? "" }),
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...head.filter((text) => text !== undefined).map((text) => el("th", { textContent: text })))),
      el("tbody", {}, ...body),
    ),
    ...(payload.lines ?? []).map((line) => el("div", { className: "sae-steering-quiet", textContent: line })),
    told,
  );
}

function cell(text, className) {
  return el("td", { className, textContent: text });
}

function bar(share) {
  const inner = el("i");
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { className: "sae-steering-gauge" }, inner);
}

/** Puts the feature into the selected panel, else into one of the same SAE, else into the only one there is. */
async function add(payload, row, told) {
  const panels = [...executionNodes().values()].map((node) => ({ node, panel: panelOf(node) })).filter(({ panel }) => panel);
  const chosen =
    panels.find(({ node }) => app.canvas?.selected_nodes?.[node.id] === node) ??
    panels.find(({ panel }) => panel.fingerprint === payload.fingerprint) ??
    panels.find(({ panel }) => panel.fingerprint === undefined);
  if (!chosen) {
    told.textContent = panels.length
      ? "The panels here belong to other SAEs; select the one you mean, or add another."
      : "There is no Feature Mixer in this workflow; add one, then click again.";
    return;
  }
  const { panel, node } = chosen;
  const owner = panel.source ? await panel.whose(row.feature).catch(() => undefined) : undefined;
  if (owner && payload.owner && owner.identity !== payload.owner.identity) {
    told.textContent = `This table is of ${payload.owner.name}, but ${node.title} has ${owner.name}.`;
    return;
  }
  told.textContent = `Feature ${row.feature} is in ${node.title}.`;
  panel.know(payload);
  panel.add(row);
}

/** Where on the picture it fires, a pixel a token. */
function thumbnail(heat, feature) {
  const canvas = el("canvas", {
    className: "sae-steering-heat", width: heat.columns, height: heat.rows, role: "img",
    "aria-label": `Where feature ${feature} fires`,
  });
  const values = Uint8Array.from(atob(heat.data), (letter) => letter.charCodeAt(0));
  const context = canvas.getContext("2d");
  const picture = context.createImageData(heat.columns, heat.rows);
  values.forEach((value, at) => picture.data.set([value, value * 0.55, 255 - value, 60 + value * 0.76], 4 * at));
  context.putImageData(picture, 0, 0);
  return canvas;
}
