// Files on their way into the inbox, one after the other, each with a row that says how far it is.

import { element } from "./dom.js";
import { put, Refused } from "./server.js";

const PREVIEW = 160;
const SEEN_MS = 1500;
const FORGET_MS = 10_000;
const PICTURES = /\.(jpe?g|png|webp|tiff?|bmp|gif|pp?m|avif|hei[cf])$/i;

// Return the files of a drop; folders are looked through for pictures.
export async function filesOf(transfer) {
  const found = [...transfer.items].filter((item) => item.kind === "file")
    .map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
  const lists = await Promise.all(found.map(([entry, file]) => (entry?.isDirectory ? picturesIn(entry) : [file])));
  return lists.flat().filter(Boolean);
}

async function picturesIn(folder) {
  const reader = folder.createReader();
  const files = [];
  for (;;) { // it gives a hundred entries at a time
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return files;
    for (const entry of entries) {
      if (entry.isDirectory) files.push(...await picturesIn(entry));
      else if (PICTURES.test(entry.name)) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    }
  }
}

export class Uploads {
  // `onChange` is called when a row comes or goes.
  constructor(list, onChange) {
    this.list = list;
    this.onChange = onChange;
    this.limit = Infinity;
    this.previews = new Map(); // of what was sent from here, by the id that the server gave it
    this.waited = new Set(); // the ids of those that the server has shown to wait
    this.last = Promise.resolve();
    this.sent = [];
  }

  // Send files to `path`, an address without the name; `where` says for people what it is.
  add(files, path, where) {
    for (const file of files) {
      const row = this.row(file, where);
      this.list.append(row.element);
      this.last = this.last.then(() => this.send(file, path, row));
    }
    this.onChange();
  }

  get count() {
    return this.list.children.length;
  }

  // Let the rows go of what was sent and is among `ids`, or, for a state that is newer than them, of all that was sent.
  settle(ids = null) {
    const isOver = ({ id }) => ids === null || ids.has(id);
    for (const { element: row } of this.sent.filter(isOver)) row.remove();
    this.sent = this.sent.filter((one) => !isOver(one));
  }

  // Forget the previews of files that waited, and do not any more.
  keep(ids) {
    for (const id of ids) if (this.previews.has(id)) this.waited.add(id);
    for (const id of this.waited) {
      if (ids.has(id)) continue;
      const address = this.previews.get(id);
      setTimeout(() => URL.revokeObjectURL(address), FORGET_MS); // what shows it may be loading still
      this.previews.delete(id);
      this.waited.delete(id);
    }
  }

  row(file, where) {
    const image = element("span", { className: "thumb" });
    const note = element("span", { className: "note-line" }, `to be sent, ${where}`);
    const bar = element("progress", { max: 1, value: 0, "aria-label": `Sending ${file.name}` });
    const buttons = element("span", { className: "buttons" });
    const text = element("div", { className: "text" }, element("b", {}, file.name), note, bar);
    const small = preview(file);
    small.then((address) => image.append(element("img", { alt: "", src: address })), () => {}); // the browser cannot read it
    const made = element("li", { className: "row upload" }, image, text, buttons);
    return { element: made, preview: small, note, bar, buttons, where };
  }

  async send(file, path, row) {
    row.note.textContent = `is being sent, ${row.where}`;
    try {
      if (file.size > this.limit) {
        throw new Refused(`It has ${megabytes(file.size)}; at most ${megabytes(this.limit)} are taken.`,
          "Export it smaller, or copy it into the inbox folder.");
      }
      const name = encodeURIComponent(file.name.toWellFormed?.() ?? file.name);
      const { id } = await put(`${path}name=${name}`, file, (share) => { row.bar.value = share; });
      row.preview.then((address) => {
        this.previews.set(id, address);
        this.onChange();
      }, () => {});
      row.note.textContent = `was sent, ${row.where}`;
      this.sent.push({ id, element: row.element });
      setTimeout(() => { // where no new state says so
        this.settle(new Set([id]));
        this.onChange();
      }, SEEN_MS);
    } catch (error) {
      this.refuse(error, file, path, row);
    }
    this.onChange();
  }

  refuse(error, file, path, row) {
    row.element.classList.add("refused");
    row.note.setAttribute("role", "alert");
    row.note.textContent = `was not sent. ${error.message} ${error.nextStep ?? ""}`.trim();
    row.bar.hidden = true;
    const again = element("button", { type: "button", "aria-label": `Try again: ${file.name}` }, "Try again");
    const dismiss = element("button", { type: "button", "aria-label": `Dismiss ${file.name}` }, "Dismiss");
    const leave = () => {
      row.element.remove();
      this.onChange();
    };
    again.addEventListener("click", () => {
      leave();
      this.add([file], path, row.where);
    });
    dismiss.addEventListener("click", leave);
    row.buttons.replaceChildren(again, dismiss);
  }
}

// Return the address of a small copy, so that a row of large photographs costs little memory.
async function preview(file) {
  const bitmap = await createImageBitmap(file, { resizeWidth: PREVIEW, resizeQuality: "medium" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg" }));
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 2 : 0)} MB`;
