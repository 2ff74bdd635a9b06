// What a run's steering did: a sentence, warnings, and ‖Δ‖/‖x‖ over the steps as a small curve.
import { el, short, svg } from "./dom.js";

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
