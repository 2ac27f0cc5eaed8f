// A photograph over its result: the slider, moved by mouse, finger or keys, says how much of it is shown.

import { describe, element } from "./dom.js";

let cut = 50; // it stays where it is from picture to picture

export function comparison(picture) {
  const box = element("div", { className: "compare" });
  box.style.setProperty("--ratio", String((picture.width || 4) / (picture.height || 3)));
  const result = element("img", { className: "after", alt: `Result: ${describe(picture)}`, src: picture.large });
  if (!picture.width) {
    result.addEventListener("load", () => box.style.setProperty("--ratio", String(result.naturalWidth / result.naturalHeight)));
  }
  box.append(result);
  if (!picture.content) return box;
  const slider = element("input", { type: "range", min: "0", max: "100", step: "1", value: String(cut) });
  slider.setAttribute("aria-label", "How much of the photograph is shown before the result");
  const move = () => {
    cut = Number(slider.value);
    box.style.setProperty("--cut", `${cut}%`);
    slider.setAttribute("aria-valuetext", `${cut} % photograph`);
  };
  slider.addEventListener("input", move);
  move();
  const alt = `Photograph: ${picture.contentName ?? ""}`;
  const photograph = element("img", { className: "before", alt, src: picture.content });
  const over = [photograph,
    element("span", { className: "tag left", "aria-hidden": "true" }, "before"),
    element("span", { className: "tag right", "aria-hidden": "true" }, "after"),
    element("span", { className: "edge" }), slider];
  // Without the photograph there is nothing to compare with.
  photograph.addEventListener("error", () => over.forEach((one) => one.remove()));
  box.append(...over);
  return box;
}
