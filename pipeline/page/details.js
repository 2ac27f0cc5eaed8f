// What stands beside a large picture: its styles, loss curves, facts, notes and recipe.

import { lossCurves, unpacked } from "./curves.js";
import { duration, element, when } from "./dom.js";

export function parts(picture, recipe) {
  return [stylePart(picture), lossPart(picture), factPart(picture), notePart(picture), recipePart(recipe)].filter(Boolean);
}

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

function stylePart(picture) {
  if (!picture.styles?.length) return null;
  const figures = picture.styles.map((style) => {
    const share = picture.styles.length > 1 ? ` · ${Number((100 * style.share).toFixed(1))} %` : "";
    const image = style.thumb ? element("img", { alt: `Style: ${style.name}`, src: style.thumb }) : "";
    return element("figure", {}, image, element("figcaption", {}, style.name + share));
  });
  return section(`Style: ${picture.style ?? ""}`, element("div", { className: "styles" }, ...figures));
}

function lossPart(picture) {
  if (!picture.curves) return null;
  const { svg, legend } = lossCurves(unpacked(picture.curves));
  return element("section", { className: "curves" }, element("h3", {}, "Loss, logarithmic"), svg, legend);
}

function factPart(picture) {
  const facts = [];
  if (picture.contentName) facts.push(["Content", picture.contentName]);
  if (picture.difference) facts.push(["Differs in", picture.difference]);
  if (picture.seconds) facts.push(["Time", duration(picture.seconds)]);
  if (picture.width) facts.push(["Size", `${picture.width} × ${picture.height}`]);
  for (const [label, text] of Object.entries(picture.facts ?? {})) facts.push([label, text]);
  if (picture.finished) facts.push([picture.status === "failed" ? "Failed" : "Finished", when(picture.finished)]);
  if (picture.image) facts.push(["File", files(picture)]);
  if (!facts.length) return null;
  const pairs = facts.flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, value)]);
  return section("Picture", element("dl", { className: "facts" }, ...pairs));
}

function files(picture) {
  const open = element("a", { href: picture.image }, "open the picture");
  return picture.download ? element("span", {}, open, " · ", element("a", { href: picture.download }, "save it")) : open;
}

function notePart(picture) {
  if (!picture.notes?.length) return null;
  return section("Notes", element("ul", { className: "notes" }, ...picture.notes.map((note) => element("li", {}, note))));
}

function recipePart(text) {
  if (!text) return null;
  const copy = element("button", { type: "button", className: "copy" }, "Copy");
  const pre = element("pre", { tabIndex: 0, "aria-label": "Recipe as YAML", role: "region" }, text);
  copy.setAttribute("aria-label", "Copy the recipe");
  copy.addEventListener("click", async () => {
    copy.textContent = (await copied(text, pre)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
  return element("section", { className: "recipe" }, element("h3", {}, "Recipe", copy), pre);
}

async function copied(text, pre) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // no clipboard for files: select the text, so that a key copies it
    getSelection().selectAllChildren(pre);
    return document.execCommand("copy");
  }
}
