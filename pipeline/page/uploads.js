// Files on their way into the inbox, one after the other, each with a row that says how far it is.

import { element } from "./dom.js";
import { put, Refused } from "./server.js";

const PREVIEW = 160;
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

  // A new state has been shown: what was sent is in it.
  settle() {
    for (const row of this.sent.splice(0)) row.element.remove();
  }

  // Forget the previews of files that do not wait any more.
  keep(ids) {
    for (const [id, address] of this.previews) {
      if (ids.has(id)) continue;
      URL.revokeObjectURL(address);
      this.previews.delete(id);
    }
  }

  row(file, where) {
    const image = element("span", { className: "thumb" });
    const note = element("span", { className: "note-line" }, `to be sent, ${where}`);
    const bar = element("progress", { max: 1, value: 0, "aria-label": `Sending ${file.name}` });
    const buttons = element("span", { className: "buttons" });
    const text = element("div", { className: "text" }, element("b", {}, file.name), note, bar);
    preview(file).then((address) => image.append(element("img", { alt: "", src: address })), () => {});
    return { element: element("li", { className: "row upload" }, image, text, buttons), image, note, bar, buttons, where };
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
      const address = row.image.firstChild?.src;
      if (address) this.previews.set(id, address);
      this.sent.push(row);
    } catch (error) {
      this.refuse(error, file, path, row);
    }
    this.onChange();
  }

  refuse(error, file, path, row) {
    row.element.classList.add("refused");
    row.element.setAttribute("role", "alert");
    row.note.textContent = `was not sent. ${error.message} ${error.nextStep ?? ""}`.trim();
    row.bar.hidden = true;
    const again = element("button", { type: "button", "aria-label": `Send ${file.name} again` }, "Try again");
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
