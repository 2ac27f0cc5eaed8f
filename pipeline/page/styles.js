// The styles as pictures: photographs are dropped on one of them, or chosen after a click on it.

import { at, counted, element, visible } from "./dom.js";
import { showFaces } from "./cards.js";
import { keyed } from "./keyed.js";
import { filesOf } from "./uploads.js";

const FEW = 11; // so many tiles are shown at first
const ACCEPT = "image/*,.tif,.tiff,.heic,.heif,.avif,.ppm";

export class Styles {
  constructor(uploads, onStray) {
    this.uploads = uploads;
    this.onStray = onStray;
    this.showsAll = false;
    this.chooser = element("input", { type: "file", multiple: true, accept: ACCEPT, hidden: true, tabIndex: -1 });
    this.chooser.addEventListener("change", () => {
      this.send([...this.chooser.files], this.chosenFor);
      this.chooser.value = "";
    });
    document.body.append(this.chooser);
    this.followDrags();
  }

  show(styles) {
    this.styles = styles;
    const usable = styles.filter((style) => style.canDrop);
    const all = styles.map((style) => ({ ...style, kind: "style" }));
    const shown = this.showsAll || all.length <= FEW + 1 ? all : all.slice(0, FEW);
    const tiles = [...shown];
    if (usable.length > 1) {
      const thumbs = usable.slice(0, 4).map((style) => style.thumb);
      tiles.unshift({ id: "every", kind: "every", name: "Every style", canDrop: true, thumbs });
    }
    if (shown.length < all.length) tiles.push({ id: "more", kind: "more", name: `All ${counted(all.length, "style")}` });
    tiles.push({ id: "new", kind: "new", name: "Add a style", canDrop: true });
    at("styles-hint").textContent = usable.length
      ? "Drop photos on a style to have them painted in it, or click it to choose them."
      : "Drop a picture of a painting, a drawing or a pattern here, or click to choose one.";
    keyed(at("tiles"), tiles, (tile) => this.tile(tile), fill);
    this.tiles = tiles;
  }

  tile(tile) {
    const made = element("li", { className: `tile ${tile.kind}` },
      element("button", { type: "button" }, element("span", { className: "face" }), element("span", { className: "name" })));
    made.firstChild.addEventListener("click", () => this.press(made.dataset.id));
    made.addEventListener("dragover", (event) => {
      if (made.classList.contains("closed")) return;
      event.preventDefault();
      event.stopPropagation();
      event.dataTransfer.dropEffect = "copy";
      made.classList.add("over");
    });
    made.addEventListener("dragleave", (event) => {
      if (!made.contains(event.relatedTarget)) made.classList.remove("over");
    });
    made.addEventListener("drop", async (event) => {
      if (made.classList.contains("closed")) return;
      event.preventDefault();
      event.stopPropagation();
      this.endDrag();
      made.classList.remove("over");
      const id = made.dataset.id;
      this.send(await filesOf(event.dataTransfer), id);
    });
    return made;
  }

  press(id) {
    if (id === "more") {
      this.showsAll = true;
      this.show(this.styles);
      return;
    }
    this.chosenFor = id;
    this.chooser.click();
  }

  send(files, id) {
    if (!files.length) return;
    const style = this.tiles.find((tile) => tile.id === id);
    if (id === "new") this.uploads.add(files, "/api/styles?", "as a new style");
    else if (id === "every") this.uploads.add(files, "/api/photos?", "for every style");
    else this.uploads.add(files, `/api/photos?style=${encodeURIComponent(id)}&`, `for ${style?.name ?? "its style"}`);
  }

  // While files are dragged over the page the styles stay in sight, and a drop beside them opens no file.
  followDrags() {
    const isFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none";
      document.body.classList.add("dragging");
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) this.endDrag();
    });
    addEventListener("drop", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      this.endDrag();
      this.onStray();
    });
  }

  endDrag() {
    document.body.classList.remove("dragging");
  }
}

const PURPOSES = {
  style: "choose photos to paint in this style",
  every: "choose photos to paint in every style",
  new: "choose a picture",
};

function fill(made, tile) {
  const button = made.firstChild;
  showFaces(button.firstChild, tile.kind === "style" ? [tile.thumb] : tile.thumbs ?? []);
  const isClosed = tile.kind === "style" && !tile.canDrop;
  made.classList.toggle("closed", isClosed);
  button.disabled = isClosed;
  button.title = tile.reason ?? "";
  button.lastChild.textContent = visible(tile.name);
  const purpose = isClosed ? tile.reason : PURPOSES[tile.kind];
  if (purpose) button.setAttribute("aria-label", visible(`${tile.name}: ${purpose}`));
}
