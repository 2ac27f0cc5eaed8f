// What is said once, at the bottom of the page.

import { at, element } from "./dom.js";

const SEEN_MS = 6000;
const MOST = 3;

// Say something. An error stays until it is dismissed if it has a next step.
export function say(text, more = "", { isError = false } = {}) {
  const place = at("notices");
  const close = element("button", { type: "button", "aria-label": "Dismiss this message" }, "\u2715");
  const words = element("p", {}, text, more ? ` ${more}` : "");
  const made = element("div", { className: isError ? "notice bad" : "notice" }, words, close);
  if (isError) made.setAttribute("role", "alert");
  close.addEventListener("click", () => made.remove());
  // An open dialog covers the rest of the page.
  const cover = document.querySelector("dialog[open]") ?? document.body;
  if (place.parentElement !== cover) cover.append(place);
  place.append(made);
  if (!isError || !more) setTimeout(() => made.remove(), SEEN_MS);
  while (place.children.length > MOST) place.firstChild.remove();
}

export function sayError(error) {
  say(error.message, error.nextStep, { isError: true });
}
