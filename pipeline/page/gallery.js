// What is done, the newest first, and one picture of it large. The fragment of the address names that one, so that
// Back closes it.

import { at, visible } from "./dom.js";
import { asInSheet, makePicture } from "./cards.js";
import { parts } from "./details.js";
import { keyed, remade } from "./keyed.js";
import { sayError } from "./notices.js";
import { get } from "./server.js";
import { comparison } from "./slider.js";
import { Viewer } from "./viewer.js";

export class Gallery {
  // `onTitle` is called when the page has its own title again.
  constructor(onTitle) {
    this.newest = []; // what the state lists
    this.older = []; // what was asked for, further back
    this.cursor = null; // where the next of these begin, once some were asked for
    this.shown = "";
    this.viewer = new Viewer((by) => this.step(by), () => {
      if (location.hash.startsWith("#picture=")) history.replaceState(null, "", location.pathname);
      at("pictures").querySelector(`[data-id="${CSS.escape(this.shown)}"] a`)?.focus();
      onTitle();
    });
    at("older").addEventListener("click", () => this.showOlder());
  }

  get pictures() {
    const ids = new Set(this.newest.map((one) => one.id));
    return [...this.newest, ...this.older.filter((one) => !ids.has(one.id))];
  }

  show({ done, doneCount, doneNext }) {
    this.newest = done;
    this.next = this.cursor ?? doneNext;
    const { pictures } = this;
    keyed(at("pictures"), pictures, makePicture, remade(makePicture));
    at("done-title").textContent = doneCount > 1 ? `Done (${doneCount.toLocaleString()})` : "Done";
    at("done-empty").textContent = pictures.length ? "" : "Finished pictures appear here, the newest first.";
    at("older").hidden = !this.next;
  }

  async showOlder() {
    at("older").disabled = true;
    try {
      const { pictures, next, count } = await get(`/api/pictures?before=${encodeURIComponent(this.next)}`);
      this.older = [...this.pictures, ...pictures]; // the newest, too: newer ones may push them out of the state
      this.cursor = next;
      this.show({ done: this.newest, doneCount: count });
    } catch (error) {
      sayError(error);
    }
    at("older").disabled = false;
  }

  step(by) {
    const { pictures } = this;
    const next = pictures[pictures.findIndex((one) => one.id === this.shown) + by];
    if (next) location.replace(`#picture=${encodeURIComponent(next.id)}`);
  }

  // Show the picture that the address names, if it names one.
  async showLinked() {
    const id = linked();
    if (!id) return this.viewer.isOpen && this.viewer.close();
    const { pictures } = this;
    const place = pictures.findIndex((one) => one.id === id);
    const known = pictures[place];
    this.shown = id;
    try {
      if (known) this.viewer.show(known.name, place, pictures.length, comparison(asInSheet(known)), []);
      const picture = await get(`/api/pictures/${encodeURIComponent(id)}`);
      if (linked() !== id) return; // it has moved on
      const large = known ? this.viewer.stage.firstChild : comparison(picture);
      const details = parts({ ...picture, download: `${picture.image}&download=1` }, picture.recipe);
      this.viewer.show(picture.name, Math.max(0, place), Math.max(1, pictures.length), large, details);
      document.title = visible(`${picture.name} – style-pipeline`);
    } catch (error) {
      sayError(error);
    }
  }
}

function linked() {
  const found = location.hash.match(/^#picture=([\w-]+)$/);
  return found ? found[1] : "";
}
