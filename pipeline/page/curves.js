// Loss curves on a logarithmic scale.

import { drawn, element } from "./dom.js";

const [WIDTH, HEIGHT] = [320, 120];

// A record's curves have two digits of base 36 for each height; drawn are shares of the picture's height, from the top.
export function unpacked(curves) {
  const heights = (text) => text.match(/../g).map((digits) => 1 - parseInt(digits, 36) / (36 * 36 - 1));
  const lines = Object.entries(curves.lines).map(([name, text]) => [name, heights(text)]);
  return { ...curves, lines: Object.fromEntries(lines) };
}

export function lossCurves({ steps, levels, lines, ends }) {
  const named = Object.entries(lines);
  const count = named[0][1].length;
  const x = (index) => (WIDTH * index) / Math.max(1, count - 1);
  const spoken = named.map(([name]) => `${name} ends at ${ends[name]}`).join(", ");
  const svg = drawn("svg", { viewBox: `0 -14 ${WIDTH} ${HEIGHT + 30}`, preserveAspectRatio: "xMinYMid", role: "img",
    "aria-label": `Loss curves over ${steps[1]} steps, on a logarithmic scale: ${spoken}` });
  for (const [index, size] of levels) {
    if (index) svg.append(drawn("line", { class: "mark", x1: x(index), x2: x(index), y1: -4, y2: HEIGHT }));
    const place = x(index) > WIDTH - 40 ? { x: WIDTH, "text-anchor": "end" } : { x: x(index) + (index ? 3 : 0) };
    svg.append(drawn("text", { ...place, y: -5 }, `${size} px`));
  }
  svg.append(drawn("line", { class: "mark", x1: 0, x2: WIDTH, y1: HEIGHT + 2, y2: HEIGHT + 2 }));
  for (const [name, heights] of named) {
    const points = heights.map((height, index) => `${x(index).toFixed(1)},${(height * HEIGHT).toFixed(1)}`);
    svg.append(drawn("polyline", { class: name, points: points.join(" ") }));
  }
  svg.append(drawn("text", { x: 0, y: HEIGHT + 14 }, `step ${steps[0]}`),
    drawn("text", { x: WIDTH, y: HEIGHT + 14, "text-anchor": "end" }, `step ${steps[1]}`));
  const legend = named.map(([name]) => element("li", {},
    drawn("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, drawn("line", { class: name, x1: 0, x2: 22, y1: 4, y2: 4 })),
    `${name} ${ends[name]}`));
  return { svg, legend: element("ul", { className: "legend" }, ...legend) };
}
