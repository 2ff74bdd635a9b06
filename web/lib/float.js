// What lies above everything and unscaled, whatever the zoom of the canvas: cards, menus, lists of what was found.

/** Shows a popover below `anchor`, or above it where there is more room, inside the window. */
export function showAt(popover, anchor, gap = 2) {
  popover.showPopover();
  const { top, bottom, left } = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popover;
  const below = bottom + gap + height <= window.innerHeight || top < window.innerHeight - bottom;
  const wanted = below ? bottom + gap : top - gap - height;
  popover.style.top = `${Math.max(0, Math.min(wanted, window.innerHeight - height))}px`;
  popover.style.left = `${Math.max(0, Math.min(left, window.innerWidth - width))}px`;
}
