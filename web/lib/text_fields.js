// Text fields of the pack's nodes on the classic canvas: there core shows a name only while a field is empty.
const LEAST = 58; // units: the name and two lines
const NAME_HEIGHT = 15;

/** Writes each field's name into its corner, and keeps it from shrinking to one line when the node shows a result. */
export function nameTextFields(node) {
  for (const widget of node.widgets ?? []) {
    const { element } = widget;
    if (element?.tagName !== "TEXTAREA") continue;
    widget.options.hideOnZoom = false; // a grey box would be there instead
    widget.options.getMinHeight ??= () => LEAST;
    element.style.paddingTop = `${NAME_HEIGHT}px`;
    element.style.backgroundImage = `url("data:image/svg+xml,${encodeURIComponent(nameTag(widget.label ?? widget.name))}")`;
    element.style.backgroundRepeat = "no-repeat";
  }
}

function nameTag(name) {
  const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
  for (const [key, value] of Object.entries({ x: 4, y: 11, fill: "#999", "font-size": 11, "font-family": "system-ui, sans-serif" })) {
    text.setAttribute(key, value);
  }
  text.textContent = name;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ width: 300, height: NAME_HEIGHT })) svg.setAttribute(key, value);
  svg.append(text);
  return new XMLSerializer().serializeToString(svg);
}
