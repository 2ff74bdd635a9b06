// The value of the panel: rows as JSON. The same rules as sae/steering/mix.py, which has the last word.
export const EMPTY = '{"rows": []}';
export const UNITS = {
  calibrated: "× clear",
  auto: "× natural",
  max: "× max",
  mean: "× mean",
  raw: "activation",
  token_norm: "of norm",
};
const LARGEST_DELTA = 0.5; // of the token's norm: beyond it the activation is destroyed, see sae/steering/record.py
const BEYOND = 2; // how far past its own largest activation a slider goes
const FIRST = { calibrated: 1, auto: 1, max: 0.5, mean: 1, raw: 1, token_norm: 0.1 };

/**
 * {rows, strength} of a text, the strength being of all rows together. A text that is none is kept as `broken`, and not
 * touched until the user changes something.
 */
export function parse(text) {
  try {
    const found = JSON.parse(text || EMPTY);
    const { strength = 1 } = found ?? {};
    if (Array.isArray(found?.rows) && Number.isFinite(strength)) {
      const rows = found.rows.filter((row) => row && typeof row === "object" && Number.isInteger(row.feature));
      if (rows.length === found.rows.length) return { rows: rows.map((row) => ({ ...row })), strength };
    }
  } catch {
    // told below, as for any other text that is no list of rows
  }
  return { rows: [], strength: 1, broken: String(text) };
}

export function write({ rows, strength, broken }) {
  return broken ?? JSON.stringify(strength === 1 ? { rows } : { strength, rows });
}

/** Whether a row steers: it is on, and where rows are soloed it is one of them. */
export function plays(row, rows) {
  return rows.some((other) => other.solo) ? row.solo === true : row.on !== false;
}

/** As it was when it was added or came with a workflow: on, alone with nobody, at the strength it had then. */
export function reset({ solo, first, ...row }) {
  return { ...row, on: true, strength: first ?? row.strength ?? 1 };
}

/** A row at another strength, or in another unit, which keeps what it began with. */
export function changed(row, change) {
  const next = { ...row, ...change };
  if ("unit" in change) next.first = FIRST[change.unit] ?? 1;
  else if ("strength" in change && change.strength !== (row.strength ?? 1)) next.first = row.first ?? row.strength ?? 1;
  return next;
}

/** The units that a row can be given in, the best first: only those for which something is known of the feature. */
export function unitsOf(row) {
  const known = [];
  if (row.calibration) known.push("calibrated");
  known.push("auto");
  if (row.max > 0) known.push("max");
  if (row.mean > 0 && row.max > 0) known.push("mean");
  if (row.max > 0) known.push("raw");
  known.push("token_norm");
  return row.unit && !known.includes(row.unit) ? [...known, row.unit] : known;
}

/** How far a row's slider goes, from what was measured: [smallest, largest, step]. */
export function rangeOf(row) {
  const unit = row.unit ?? unitsOf(row)[0];
  let largest = LARGEST_DELTA;
  if (unit === "calibrated") largest = row.calibration ? row.calibration.high / row.calibration.clear : 1;
  else if (unit === "max" || unit === "auto") largest = BEYOND;
  else if (unit === "mean") largest = row.mean > 0 && row.max > 0 ? (BEYOND * row.max) / row.mean : BEYOND;
  else if (unit === "raw") largest = row.max > 0 ? BEYOND * row.max : BEYOND;
  const rounded = Number(Math.max(largest, 0.01).toPrecision(3));
  return [-rounded, rounded, Number((rounded / 100).toPrecision(1))];
}

/** A row of a feature as the server tells it, with the SAE that its numbers belong to. */
export function rowOf(feature, owner) {
  const row = { feature: feature.feature, strength: 1, on: true };
  if (owner) row.owner = { identity: owner.identity, name: owner.name };
  if (feature.name) row.name = feature.name;
  for (const key of ["mean", "max", "share"]) if (Number.isFinite(feature[key])) row[key] = feature[key];
  const [best] = feature.calibrations ?? []; // the server puts the method that is steered with first
  if (best) row.calibration = best;
  row.unit = unitsOf(row)[0];
  row.strength = FIRST[row.unit];
  return row;
}

/** A row with what the server knows now, for the eye: the value itself changes only when the user changes it. */
export function merged(saved, feature) {
  const row = { ...saved };
  if (!feature) return row;
  for (const key of ["mean", "max", "share"]) {
    if (row[key] === undefined && Number.isFinite(feature[key])) row[key] = feature[key];
  }
  if (feature.name) row.name = feature.name;
  const [best] = feature.calibrations ?? [];
  if (best && !row.calibration) row.calibration = best;
  return row;
}

export function move(rows, from, to) {
  const moved = [...rows];
  moved.splice(to, 0, ...moved.splice(from, 1));
  return moved;
}
