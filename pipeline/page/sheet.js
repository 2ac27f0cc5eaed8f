import { at, counted, describe, duration, element, grouped, visible } from "./dom.js";
import { parts } from "./details.js";
import { comparison } from "./slider.js";
import { Viewer } from "./viewer.js";

const AT_ONCE = 60; // so many cards are made at a time

const data = JSON.parse(document.getElementById("data").textContent);
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

const stylesDiffer = !isSame(data.pictures.filter((one) => one.styles), (one) => JSON.stringify(one.styles));

const linkTo = (picture) => `#picture=${encodeURIComponent(picture.name.toWellFormed?.() ?? picture.name)}`;

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
  at("head").append(line, ...sharedSources());
  const ended = data.fault ? `The last run ended with a fault: ${data.fault}` : REASONS[data.reason];
  if (ended) at("head").append(element("p", { className: "note fault" }, ended));
  const failed = statuses.get("failed") ?? [];
  if (failed.length) at("head").append(listOfFailures(failed));
  if (data.notes.length) {
    const items = data.notes.map((note) => element("li", {}, note));
    at("head").append(details(counted(items.length, "note") + " about this sheet", items));
  }
}

// The photograph and the style that all pictures have in common.
function sharedSources() {
  const known = data.pictures.filter((one) => one.contentName);
  const figure = (title, image, name) => element("figure", {},
    image ? element("img", { alt: "", src: image }) : "",
    element("figcaption", {}, title, element("b", {}, name)));
  const figures = [];
  const [first] = known;
  if (known.length > 1 && isSame(known, (one) => `${one.content} ${one.contentName}`)) {
    figures.push(figure("Photograph", first.content, first.contentName));
  }
  if (known.length > 1 && first.styles && isSame(known, (one) => JSON.stringify(one.styles))) {
    figures.push(...first.styles.map((style) => figure("Style", style.thumb, style.name)));
  }
  return figures.length ? [element("div", { className: "sources" }, ...figures)] : [];
}

function isSame(items, part) {
  return new Set(items.map(part)).size === 1;
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

// With thousands of pictures, the page is shown before all of its cards are made, and their images are left to the
// browser only when they come near: each that waits for being seen costs something in every frame.

async function appendAll(place, items, make, atOnce = 1) {
  for (const some of cutInto(items, atOnce)) {
    place.append(...some.map(make));
    await new Promise((resolve) => { setTimeout(resolve); });
  }
}

function cutInto(items, length) {
  const count = Math.ceil(items.length / length);
  return Array.from({ length: count }, (_, index) => items.slice(index * length, (index + 1) * length));
}

const near = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(target);
    loadImages(target);
  }
}, { rootMargin: "200%" });

function loadImages(place) {
  for (const image of place.querySelectorAll("img[data-src]")) {
    image.src = image.dataset.src;
    image.removeAttribute("data-src");
  }
}

addEventListener("beforeprint", () => loadImages(document));

// Cards

function card(index, isInGrid) {
  const picture = data.pictures[index];
  const made = element("a", { className: `card ${picture.status}`, href: linkTo(picture) });
  if (picture.thumb) {
    const image = element("img", { alt: describe(picture), loading: "lazy", decoding: "async" });
    if (picture.width && picture.height) {
      [image.width, image.height] = [picture.width, picture.height];
      image.style.aspectRatio = `${picture.width} / ${picture.height}`; // before it is loaded, too
    }
    image.dataset.src = picture.thumb;
    made.append(image);
  } else {
    made.append(statusNote(picture));
  }
  const caption = element("span", { className: "caption" });
  if (!isInGrid && stylesDiffer) caption.append(...styleImages(picture));
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
  at("main").append(grid);
  appendAll(grid, data.rows, (row) => gridRow(row, columns), Math.ceil(AT_ONCE / count));
}

function gridRow(row, columns) {
  const line = element("div", { className: "line row", role: "row" }, rowHead(row));
  row.cells.forEach((indices, place) => {
    const cell = element("div", { className: "cell", role: "cell" }, ...indices.map((index) => card(index, true)));
    if (!indices.length) cell.append(element("span", { className: "empty" }, element("span", { className: "unseen" }, "No picture")));
    cell.style.gridColumn = String(columns[place].place);
    line.append(cell);
  });
  near.observe(line);
  return line;
}

function gridHeads(columns) {
  const line = element("div", { className: "line heads", role: "row" }, element("span", { className: "corner", role: "cell" }));
  const starts = new Set();
  const withVariants = columns.some(({ label }) => label);
  for (const { group, label, place } of columns) {
    if (group.label && !starts.has(group)) {
      const head = element("span", { className: "group", role: "columnheader" },
        ...styleImages(data.pictures[group.picture]), element("span", {}, group.label));
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
  loadImages(line);
  return line;
}

function rowHead(row) {
  const picture = data.pictures[row.picture];
  const images = { styles: styleImages, contents: contentImages }[data.rowsAre]?.(picture) ?? [];
  return element("div", { className: "rowhead", role: "rowheader" },
    element("div", { className: "sources" }, ...images), element("p", { className: "label" }, row.label));
}

function small(source) {
  const image = element("img", { alt: "", loading: "lazy", decoding: "async" });
  image.dataset.src = source;
  return image;
}

function contentImages(picture) {
  return picture.content ? [small(picture.content)] : [];
}

// The first styles of a blend stand for it.
function styleImages(picture) {
  return (picture?.styles ?? []).filter((style) => style.thumb).slice(0, 2).map((style) => small(style.thumb));
}

function buildWall() {
  const wall = element("div", { className: "wall" });
  at("main").append(wall);
  let columns = columnsOf(wall);
  const cut = () => cutInto(data.wall, columns * Math.ceil(AT_ONCE / columns));
  const fitColumns = () => {
    if (columnsOf(wall) === columns || cards.size < order.length) return;
    columns = columnsOf(wall);
    wall.replaceChildren(...cut().map((indices) => wallPart(indices.map((index) => cards.get(index)), columns)));
  };
  addEventListener("resize", fitColumns);
  appendAll(wall, cut(), (indices) => wallPart(indices.map((index) => card(index, false)), columns)).then(fitColumns);
}

// Some full rows of the wall.
function wallPart(made, columns) {
  const part = element("div", { className: "part" }, ...made);
  part.style.containIntrinsicSize = `auto 1px auto ${15 * Math.ceil(made.length / columns)}rem`;
  near.observe(part);
  return part;
}

const columnsOf = (grid) => getComputedStyle(grid).gridTemplateColumns.split(" ").length;

// The viewer

const viewer = new Viewer(step, closed);
let shown = -1;

function show(index) {
  shown = index;
  const picture = data.pictures[index];
  viewer.show(picture.name, places.get(index), order.length, stage(picture), parts(picture, data.recipes[picture.recipe]));
  document.title = visible(`${picture.name} – ${data.batch}`);
}

function closed() {
  document.title = visible(data.batch);
  if (location.hash.startsWith("#picture=")) history.replaceState(null, "", "#");
  const last = cards.get(shown);
  last?.scrollIntoView({ block: "nearest", inline: "nearest" });
  last?.focus({ preventScroll: true });
}

function stage(picture) {
  if (!picture.image) {
    const note = statusNote(picture, "stage-note");
    return element("div", { className: picture.status }, note);
  }
  return comparison(picture);
}

// Moving about: the fragment names the picture, so that it can be linked to, and Back closes it

function follow() {
  let name = null;
  try {
    const found = location.hash.match(/^#picture=(.+)$/s);
    name = found && decodeURIComponent(found[1]);
  } catch { /* not ours */ }
  const index = name === null ? undefined : byName.get(name);
  if (index !== undefined && viewer.isOpen && index === shown) return;
  if (index !== undefined) show(index);
  else if (viewer.isOpen) viewer.close();
}

function step(by) {
  const index = order[places.get(shown) + by];
  if (index === undefined) return;
  show(index);
  location.replace(linkTo(data.pictures[index]));
}

addEventListener("hashchange", follow);

buildHead();
if (data.rows.length) buildGrid();
if (data.rows.length && data.wall.length) at("main").append(element("h2", { className: "wall-title" }, "More"));
if (data.wall.length) buildWall();
follow();
