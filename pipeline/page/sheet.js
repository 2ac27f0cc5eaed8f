
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const WORDS = {
  missing: ["Not there", "It was made, and has been deleted or renamed since."],
  postponed: ["Not begun", "It would have run past the deadline."],
  interrupted: ["Stopped", "The next run resumes it."],
  not_begun: ["Not begun", "The next run makes it."],
};
const REASONS = {
  stopped: "The last run was stopped.",
  deadline: "The last run reached its deadline.",
  max_failures: "The last run ended because too many pictures failed.",
};
const at = (id) => document.getElementById(id);

// Characters that turn around or hide what stands beside them are shown by their numbers.
function visible(text) {
  const number = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return text.replace(/[\0-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, number);
}

// Text is only ever set as text.
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  for (const child of children) {
    if (child !== null && child !== "") made.append(typeof child === "string" ? visible(child) : child);
  }
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function counted(number, noun) {
  return `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
}

function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

function span(texts) {
  const dates = texts.map((text) => new Date(text)).filter((date) => !Number.isNaN(date.getTime()));
  if (!dates.length) return "";
  const times = dates.map((date) => date.getTime());
  const [first, last] = [new Date(Math.min(...times)), new Date(Math.max(...times))];
  return new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).formatRange(first, last);
}

// The order in which the viewer goes from picture to picture.
const order = [...data.rows.flatMap((row) => row.cells.flat()), ...data.wall];
const places = new Map(order.map((index, place) => [index, place]));
const byName = new Map(data.pictures.map((picture, index) => [picture.name, index]));
const cards = new Map();

const linkTo = (picture) => `#picture=${encodeURIComponent(picture.name.toWellFormed?.() ?? picture.name)}`;

function describe(picture) {
  const made = picture.contentName ? `${picture.contentName} in the style ${picture.style ?? ""}` : picture.name;
  return picture.difference ? `${made}, ${picture.difference}` : made;
}

// The head

function buildHead() {
  const statuses = Map.groupBy ? Map.groupBy(data.pictures, (one) => one.status) : grouped(data.pictures, "status");
  const number = (status) => statuses.get(status)?.length ?? 0;
  const seconds = data.pictures.reduce((sum, one) => sum + (one.seconds ?? 0), 0);
  const waiting = number("postponed") + number("interrupted") + number("not_begun");
  const facts = [element("b", {}, counted(number("done"), "picture"))];
  if (number("failed")) facts.push(element("b", { className: "bad" }, `${number("failed").toLocaleString()} failed`));
  if (waiting) facts.push(`${waiting.toLocaleString()} to come`);
  if (number("missing")) facts.push(`${number("missing").toLocaleString()} deleted or renamed`);
  const made = span(data.pictures.filter((one) => one.finished && one.status !== "failed").map((one) => one.finished));
  if (made) facts.push(made);
  if (seconds) facts.push(`${duration(seconds)} of painting`);
  const line = element("p", { className: "facts" });
  facts.forEach((fact, index) => line.append(...(index ? [" · ", fact] : [fact])));
  at("head").append(line);
  const ended = data.fault ? `The last run ended with a fault: ${data.fault}` : REASONS[data.reason];
  if (ended) at("head").append(element("p", { className: "note fault" }, ended));
  const failed = statuses.get("failed") ?? [];
  if (failed.length) at("head").append(listOfFailures(failed));
  if (data.notes.length) {
    const items = data.notes.map((note) => element("li", {}, note));
    at("head").append(details(counted(items.length, "note") + " about this sheet", items));
  }
}

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(item[key], [...(groups.get(item[key]) ?? []), item]);
  return groups;
}

function listOfFailures(failed) {
  const items = [...grouped(failed, "error")].slice(0, 20).map(([error, same]) => {
    const links = same.slice(0, 5).flatMap((one, index) => [index ? ", " : "", element("a", { href: linkTo(one) }, one.name)]);
    const more = same.length > 5 ? ` and ${same.length - 5} more` : "";
    return element("li", {}, ...links, `${more}: ${error ?? "unknown error"} ${same[0].nextStep ?? ""}`);
  });
  const list = details("What failed", items);
  list.open = items.length <= 3;
  return list;
}

function details(title, items) {
  return element("details", {}, element("summary", {}, title), element("ul", {}, ...items));
}

// Cards

function card(index, isInGrid) {
  const picture = data.pictures[index];
  const made = element("a", { className: `card ${picture.status}`, href: linkTo(picture) });
  if (picture.thumb) {
    const image = element("img", { alt: describe(picture), loading: "lazy", decoding: "async" });
    if (picture.width && picture.height) [image.width, image.height] = [picture.width, picture.height];
    image.src = picture.thumb;
    made.append(image);
  } else {
    made.append(statusNote(picture));
  }
  const caption = element("span", { className: "caption" });
  if (picture.difference && !isInGrid) caption.append(element("b", {}, picture.difference));
  caption.append(element("span", { title: picture.name }, picture.name));
  made.append(caption);
  cards.set(index, made);
  return made;
}

function statusNote(picture, more = "") {
  if (picture.status === "failed") {
    const next = picture.nextStep ? element("span", { className: "step" }, picture.nextStep) : "";
    const error = element("span", { className: "error" }, (!more && picture.briefly) || picture.error || "Unknown error.");
    return element("span", { className: `note ${more}` }, element("b", {}, "Failed"), error, next);
  }
  const [title, text] = WORDS[picture.status] ?? [picture.status, ""];
  return element("span", { className: `note ${more}` }, element("b", {}, title), text);
}

// The grid and the wall

function buildGrid() {
  const count = data.groups.reduce((sum, group) => sum + group.columns.length, 0);
  const columns = [];
  const template = ["var(--head)"];
  for (const group of data.groups) {
    if (template.length > 1 && count > data.groups.length) template.push("1rem");
    for (const label of group.columns) {
      columns.push({ group, label, place: template.push("var(--cell)") });
    }
  }
  const grid = element("div", { className: "grid", role: "table", "aria-label": "Results" });
  grid.style.setProperty("--template", template.join(" "));
  grid.style.setProperty("--cell", `clamp(7rem, calc((100vw - 13vw - 8rem) / ${count} - .75rem), 20rem)`);
  grid.append(gridHeads(columns));
  for (const row of data.rows) {
    const line = element("div", { className: "line row", role: "row" }, rowHead(row));
    row.cells.forEach((indices, place) => {
      const cell = element("div", { className: "cell", role: "cell" }, ...indices.map((index) => card(index, true)));
      if (!indices.length) cell.append(element("span", { className: "empty" }, element("span", { className: "unseen" }, "No picture")));
      cell.style.gridColumn = String(columns[place].place);
      line.append(cell);
    });
    grid.append(line);
  }
  return grid;
}

function gridHeads(columns) {
  const line = element("div", { className: "line heads", role: "row" }, element("span", { className: "corner", role: "cell" }));
  const starts = new Set();
  const withVariants = columns.some(({ label }) => label);
  for (const { group, label, place } of columns) {
    if (group.label && !starts.has(group)) {
      const style = data.pictures[group.picture]?.styles?.[0]?.thumb;
      const head = element("span", { className: "group", role: "columnheader" },
        style ? element("img", { alt: "", src: style }) : "", element("span", {}, group.label));
      head.style.gridColumn = `${place} / span ${group.columns.length}`;
      head.style.gridRow = "1";
      line.append(head);
      starts.add(group);
    }
    if (withVariants) {
      const head = element("span", { className: "variant", role: "columnheader" }, label);
      head.style.gridColumn = String(place);
      head.style.gridRow = "2";
      line.append(head);
    }
  }
  return line;
}

function rowHead(row) {
  const picture = data.pictures[row.picture];
  const isStyle = data.rowsAre === "styles";
  const thumb = isStyle ? picture.styles?.[0]?.thumb : picture.content;
  return element("div", { className: "rowhead", role: "rowheader" },
    thumb ? element("img", { alt: "", src: thumb, loading: "lazy", decoding: "async" }) : "",
    element("p", { className: "label" }, row.label));
}

function buildWall() {
  return element("div", { className: "wall" }, ...data.wall.map((index) => card(index, false)));
}

// The viewer

const viewer = at("viewer");
let shown = -1;
let cut = 50; // the slider stays where it is from picture to picture

function show(index) {
  shown = index;
  const picture = data.pictures[index];
  const place = places.get(index);
  at("viewer-name").textContent = visible(picture.name);
  at("viewer-place").textContent = `${(place + 1).toLocaleString()} of ${order.length.toLocaleString()}`;
  at("previous").disabled = place === 0;
  at("next").disabled = place === order.length - 1;
  at("stage").replaceChildren(stage(picture));
  at("details").replaceChildren(...parts(picture).filter(Boolean));
  at("details").scrollTop = 0;
  document.title = visible(`${picture.name} – ${data.batch}`);
  if (!viewer.open) {
    viewer.showModal();
    at("viewer-name").focus({ preventScroll: true });
  }
}

function stage(picture) {
  if (!picture.image) {
    const note = statusNote(picture, "stage-note");
    return element("div", { className: picture.status }, note);
  }
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
  box.append(
    element("img", { className: "before", alt: `Photograph: ${picture.contentName ?? ""}`, src: picture.content }),
    element("span", { className: "tag left", "aria-hidden": "true" }, "before"),
    element("span", { className: "tag right", "aria-hidden": "true" }, "after"),
    element("span", { className: "edge" }), slider);
  return box;
}

function parts(picture) {
  return [stylePart(picture), curvePart(picture), factPart(picture), notePart(picture), recipePart(picture)];
}

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

function stylePart(picture) {
  if (!picture.styles) return null;
  const figures = picture.styles.map((style) => {
    const share = picture.styles.length > 1 ? ` · ${Number((100 * style.share).toFixed(1))} %` : "";
    const image = style.thumb ? element("img", { alt: `Style: ${style.name}`, src: style.thumb }) : "";
    return element("figure", {}, image, element("figcaption", {}, style.name + share));
  });
  return section(`Style: ${picture.style ?? ""}`, element("div", { className: "styles" }, ...figures));
}

function heights(text) {
  return text.match(/../g).map((digits) => 1 - parseInt(digits, 36) / (36 * 36 - 1));
}

function curvePart(picture) {
  const curves = picture.curves;
  if (!curves) return null;
  const [width, height] = [320, 120];
  const lines = Object.entries(curves.lines);
  const x = (index, count) => (width * index) / (count - 1);
  const count = lines[0][1].length / 2;
  const spoken = lines.map(([name]) => `${name} ends at ${curves.ends[name]}`).join(", ");
  const svg = drawn("svg", { viewBox: `0 -14 ${width} ${height + 30}`, role: "img",
    "aria-label": `Loss curves over ${curves.steps[1]} steps, on a logarithmic scale: ${spoken}` });
  for (const [index, size] of curves.levels) {
    if (index) svg.append(drawn("line", { class: "mark", x1: x(index, count), x2: x(index, count), y1: -4, y2: height }));
    svg.append(drawn("text", { x: x(index, count) + (index ? 3 : 0), y: -5 }, `${size} px`));
  }
  svg.append(drawn("line", { class: "mark", x1: 0, x2: width, y1: height + 2, y2: height + 2 }));
  for (const [name, text] of lines) {
    const points = heights(text).map((value, index) => `${x(index, count).toFixed(1)},${(value * height).toFixed(1)}`);
    svg.append(drawn("polyline", { class: name, points: points.join(" ") }));
  }
  svg.append(drawn("text", { x: 0, y: height + 14 }, `step ${curves.steps[0]}`),
    drawn("text", { x: width, y: height + 14, "text-anchor": "end" }, `step ${curves.steps[1]}`));
  const legend = lines.map(([name]) => element("li", {},
    drawn("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, drawn("line", { class: name, x1: 0, x2: 22, y1: 4, y2: 4 })),
    `${name} ${curves.ends[name]}`));
  return element("section", { className: "curves" }, element("h3", {}, "Loss, logarithmic"), svg,
    element("ul", { className: "legend" }, ...legend));
}

function factPart(picture) {
  const facts = [];
  if (picture.contentName) facts.push(["Content", picture.contentName]);
  if (picture.difference) facts.push(["Differs in", picture.difference]);
  if (picture.seconds) facts.push(["Time", duration(picture.seconds)]);
  if (picture.width) facts.push(["Size", `${picture.width} × ${picture.height}`]);
  for (const [label, text] of Object.entries(picture.facts ?? {})) facts.push([label, text]);
  if (picture.finished) facts.push([picture.status === "failed" ? "Failed" : "Finished", when(picture.finished)]);
  if (picture.image) facts.push(["File", element("a", { href: picture.image }, "open the picture")]);
  if (!facts.length) return null;
  const pairs = facts.flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, value)]);
  return section("Picture", element("dl", { className: "facts" }, ...pairs));
}

function notePart(picture) {
  if (!picture.notes) return null;
  return section("Notes", element("ul", { className: "notes" }, ...picture.notes.map((note) => element("li", {}, note))));
}

function recipePart(picture) {
  if (picture.recipe === undefined) return null;
  const text = data.recipes[picture.recipe];
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

// Moving about: the fragment names the picture, so that it can be linked to, and Back closes it

function follow() {
  let name = null;
  try {
    const found = location.hash.match(/^#picture=(.+)$/s);
    name = found && decodeURIComponent(found[1]);
  } catch { /* not ours */ }
  const index = name === null ? undefined : byName.get(name);
  if (index !== undefined && viewer.open && index === shown) return;
  if (index !== undefined) show(index);
  else if (viewer.open) viewer.close();
}

function step(by) {
  const index = order[places.get(shown) + by];
  if (index === undefined) return;
  show(index);
  location.replace(linkTo(data.pictures[index]));
}

viewer.addEventListener("close", () => {
  document.title = data.batch;
  if (location.hash.startsWith("#picture=")) history.replaceState(null, "", "#");
  const last = cards.get(shown);
  last?.scrollIntoView({ block: "nearest", inline: "nearest" });
  last?.focus({ preventScroll: true });
});
viewer.addEventListener("keydown", (event) => {
  const isBusy = event.target.matches("input, pre") || event.altKey || event.ctrlKey || event.metaKey;
  if (isBusy || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  event.preventDefault();
  step(event.key === "ArrowLeft" ? -1 : 1);
});
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("close").addEventListener("click", () => viewer.close());
addEventListener("hashchange", follow);

buildHead();
if (data.rows.length) at("main").append(buildGrid());
if (data.rows.length && data.wall.length) at("main").append(element("h2", { className: "wall-title" }, "More"));
if (data.wall.length) at("main").append(buildWall());
follow();
