// A frame as large as a picture can be drawn in the room there is, and what lies over it.
import { el } from "./dom.js";
import { shownPicture } from "./server.js";

/** A frame of pictures, all of one proportion. `load` takes files as ComfyUI names them; `told` are their captions. */
export function createFrame(className = "") {
  const element = el("div", { className: `sae-steering-frame ${className}` });
  return {
    element,
    /** Shows one file over the other, the last on top; the frame takes the proportions of the first. */
    load(files) {
      const images = files.map((file) => el("img", { src: shownPicture(file), alt: "", draggable: false }));
      const fit = () => {
        const { naturalWidth: width, naturalHeight: height } = images[0];
        if (width && height) element.style.setProperty("--sae-ratio", width / height);
      };
      images[0]?.addEventListener("load", fit);
      for (const old of element.querySelectorAll("img")) old.remove();
      element.prepend(...images);
      return images;
    },
  };
}

/** Where on an element a pointer is, in shares of its width and height. */
export function shareOf(event, element) {
  const { left, top, width, height } = element.getBoundingClientRect();
  return [(event.clientX - left) / width, (event.clientY - top) / height];
}
