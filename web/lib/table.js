// A table of features that fire: rank, number, name, where, how strongly, on how many tokens.
// A click adds a feature to a panel. And what a run's steering did: a sentence, warnings, ‖Δ‖/‖x‖ over the steps as a curve.
import { el, short, svg } from "./dom.js";
import { nameCell, refreshNames } from "./names.js";
import { picture } from "./pictures.js";
import { take } from "./take.js";

export function drawTable(node, payload) {
  const rows = Array.isArray(payload.rows) ? payload.rows : [];
  const largest = Math.max(...rows.map((row) => row.value), 1e-12);
  const pictured = rows.some((row) => row.heat);
  const shown = rows.some((row) => row.pictures?.length); // on which pictures of the gallery it fires most
  const placed = rows.some((row) => row.place); // of a set of SAEs
  const measure = payload.effect ? "effect" : payload.contrast ? "difference" : "activation";
  const head = ["#", "feature", placed ? "place" : undefined, "name", shown ? "fires on" : undefined, pictured ? "where" : undefined, measure, "tokens", ""];
  queueMicrotask(() => refreshNames({ ...payload, rows }));
  const body = rows.map((row, rank) =>
    el(
      "tr",
      { title: row.note ?? "", onclick: () => take(payload, row) },
      cell(rank + 1, "sae-steering-quiet"),
      cell(row.feature, "sae-steering-index"),
      placed ? el("td", { className: "sae-steering-quiet sae-steering-place", title: row.place ?? "", textContent: shortPlace(row.place ?? "") }) : undefined,
      nameCell(cell(row.name ?? "", "sae-steering-called"), row.feature),
      shown ? el("td", { className: "sae-steering-pictures" }, ...(row.pictures ?? []).map((one) => picture(one, payload.gallery, row.feature))) : undefined,
      pictured ? el("td", {}, row.heat ? thumbnail(row.heat, row.feature) : "") : undefined,
      el("td", {}, el("div", { className: "sae-steering-bar" }, bar(row.value / largest), el("span", { textContent: short(row.value) }))),
      cell(percent(row.share), "sae-steering-quiet sae-steering-share"),
      el("td", {}, el("button", {
        type: "button", className: "sae-steering-take", textContent: "+", title: "Add to a Feature Mixer",
        "aria-label": `Add feature ${row.feature} to a Feature Mixer`,
      })),
    ),
  );
  return el(
    "div",
    { className: `sae-steering-table ${placed ? "sae-steering-placed" : ""}`, "data-fingerprint": payload.fingerprint },
    el("div", { className: "sae-steering-title", textContent: payload.title ?? "" }),
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...head.filter((text) => text !== undefined).map((text) => el("th", { className: text === "tokens" ? "sae-steering-share" : "", textContent: text })))),
      el("tbody", {}, ...body),
    ),
    ...(payload.lines ?? []).map((line) => el("div", { className: "sae-steering-quiet", textContent: line })),
  );
}

function cell(text, className) {
  return el("td", { className, textContent: text });
}

/** As short as it can be told: "transformer_blocks.0.attn (image)" is "double 0 attn". */
function shortPlace(place) {
  const found = /^(single_)?transformer_blocks\.(\S+?)(?:\.(\w+))?(?: \((\w+)\))?$/.exec(place);
  if (!found) return place;
  const [, single, block, point] = found;
  return [single ? "single" : "double", block, point].filter(Boolean).join(" ");
}

function percent(share) {
  return `${short(Math.round(1000 * share) / 10)}\u00a0%`;
}

function bar(share) {
  const inner = el("i");
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { className: "sae-steering-gauge" }, inner);
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

const WIDTH = 240;
const HEIGHT = 44;

export function drawReport(payload) {
  const curve = (payload.curve ?? []).filter((step) => Array.isArray(step) && step.every(Number.isFinite));
  return el(
    "div",
    { className: "sae-steering-report" },
    curve.length > 1 ? drawCurve(curve.map(([, ratio]) => ratio)) : undefined,
    el("div", { textContent: payload.text ?? "" }),
    ...(payload.warnings ?? []).map((line) => el("div", { className: "sae-steering-warning", textContent: `⚠ ${line}` })),
  );
}

function drawCurve(ratios) {
  const top = Math.max(...ratios, 0);
  const points = ratios.map((ratio, at) => {
    const x = (WIDTH * at) / (ratios.length - 1);
    return `${x.toFixed(1)},${(HEIGHT - 3 - (HEIGHT - 6) * (top && ratio / top)).toFixed(1)}`;
  });
  const label = `mean ‖Δ‖/‖x‖ of each of ${ratios.length} steps, the largest ${short(top)}`;
  return el(
    "figure",
    { className: "sae-steering-curve" },
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, preserveAspectRatio: "none" },
      svg("polyline", { points: points.join(" "), fill: "none", "vector-effect": "non-scaling-stroke" }),
    ),
    el("figcaption", { textContent: label }),
  );
}
