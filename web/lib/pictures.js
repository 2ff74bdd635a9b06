// The pictures on which a feature fires most, with the spot marked: in tables, in lists, and on a card that hovers.
import { el, short } from "./dom.js";
import { featurePictures } from "./server.js";

const MAKING = "No picture of it yet: Top Activating Features makes some, with a VAE at its input gallery.";

let known = new Map(); // by source and feature: {pictures, gallery}

/** A small picture on which the feature fires, with the spot marked. */
export function picture([number, strength, spot], gallery, feature) {
  const alt = `feature ${feature} fires here at ${short(strength)}`;
  const mark = spot ? el("i") : undefined;
  if (mark) Object.assign(mark.style, { top: `${100 * spot[0]}%`, left: `${100 * spot[1]}%` });
  return el("span", { className: "sae-steering-shown", title: alt }, el("img", { src: gallery?.[number] ?? "", alt }), mark);
}

/** The pictures of features of an SAE by feature, {pictures, gallery} each; those that were asked before are kept. */
export async function picturesOf(source, features) {
  const keyOf = (feature) => `${JSON.stringify(source)} ${feature}`;
  const missing = features.filter((feature) => !known.has(keyOf(feature)));
  if (missing.length) {
    const { pictures, gallery } = await featurePictures(source, missing);
    for (const feature of missing) known.set(keyOf(feature), { pictures: pictures[feature] ?? [], gallery });
  }
  return new Map(features.map((feature) => [feature, known.get(keyOf(feature)) ?? { pictures: [], gallery: {} }]));
}

/** A run may have made new pictures. */
export function forgetPictures() {
  known = new Map();
}

/** What a card tells of a feature: {feature, name, note, share, max} in words, and its pictures. */
export function featureCard({ feature, name, note, share, max }, { pictures, gallery }) {
  const often = Number.isFinite(share) ? (share > 0 ? `It fires on ${short(100 * share)} % of the tokens` : "It never fired") : "";
  const most = often && share > 0 && max > 0 ? `, at most at ${short(max)}` : "";
  return el(
    "div",
    {},
    el("b", { textContent: name ? `${feature} · ${name}` : `Feature ${feature}` }),
    el("div", { className: "sae-steering-pictures" }, ...pictures.map((one) => picture(one, gallery, feature))),
    ...[pictures.length ? "" : MAKING, often && `${often}${most}.`, note ?? ""].filter(Boolean).map((line) => el("div", { textContent: line })),
  );
}
