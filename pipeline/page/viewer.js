// One picture, large, with what is known of it and the way to its neighbours.

import { element, visible } from "./dom.js";

export class Viewer {
  // `onStep` is called with -1 or 1, `onClose` when the viewer has been closed in any way.
  constructor(onStep, onClose) {
    this.name = element("h2", { id: "viewer-name", tabIndex: -1 });
    this.place = element("span", { id: "viewer-place" });
    this.previous = button("Previous picture", "Previous (left arrow)", "\u2190", () => onStep(-1));
    this.next = button("Next picture", "Next (right arrow)", "\u2192", () => onStep(1));
    const close = button("Close", "Close (Escape)", "\u2715", () => this.close());
    this.stage = element("div", { id: "stage" });
    this.details = element("div", { id: "details" });
    this.dialog = element("dialog", { id: "viewer", "aria-labelledby": this.name.id },
      element("nav", { "aria-label": "Pictures" }, this.name, this.place, this.previous, this.next, close),
      this.stage, this.details);
    this.dialog.addEventListener("close", onClose);
    this.dialog.addEventListener("keydown", (event) => {
      const isBusy = event.target.matches("input, pre") || event.altKey || event.ctrlKey || event.metaKey;
      if (isBusy || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      event.preventDefault();
      onStep(event.key === "ArrowLeft" ? -1 : 1);
    });
    document.body.append(this.dialog);
  }

  get isOpen() {
    return this.dialog.open;
  }

  // Show the picture at `place` of `count`; `stage` is an element, `details` are several.
  show(name, place, count, stage, details) {
    this.name.textContent = visible(name);
    this.place.textContent = `${(place + 1).toLocaleString()} of ${count.toLocaleString()}`;
    this.previous.disabled = place === 0;
    this.next.disabled = place === count - 1;
    this.stage.replaceChildren(stage);
    this.details.replaceChildren(...details);
    this.details.scrollTop = 0;
    if (this.isOpen) return;
    this.dialog.showModal();
    this.name.focus({ preventScroll: true });
  }

  close() {
    this.dialog.close();
  }
}

function button(label, title, sign, onClick) {
  const made = element("button", { type: "button", "aria-label": label, title }, sign);
  made.addEventListener("click", onClick);
  return made;
}
