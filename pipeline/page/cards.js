// The cards of what runs, waits, has failed and is done. A button carries the path that it posts to; page.js does that.

import { describe, duration, element, roughly, visible, when } from "./dom.js";
import { lossCurves } from "./curves.js";

const WARM = 4; // so many steps tell how long the others take
const CANCELLED = "to be cancelled";

// Show up to four pictures side by side; those that cannot be shown leave.
export function showFaces(place, addresses) {
  const shown = addresses.filter(Boolean).slice(0, 4);
  if (place.dataset.shows === shown.join(" ")) return;
  place.dataset.shows = shown.join(" ");
  place.replaceChildren(...shown.map((address) => {
    const image = element("img", { alt: "", src: address, loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.remove());
    return image;
  }));
}

// A button that posts to `path` when it is pressed.
export function action(label, name, path) {
  const made = element("button", { type: "button", "aria-label": `${label} ${visible(name)}` }, label);
  made.dataset.post = path;
  return made;
}

function titled(made, title) {
  made.title = title;
  return made;
}

// Running

export function makeRun() {
  const parts = {
    picture: element("img", { className: "canvas", decoding: "async" }),
    title: element("h3"),
    inputs: element("p", { className: "inputs" }),
    bar: element("progress", { max: 1 }),
    left: element("p", { className: "time-left" }),
    cancel: element("span"),
    where: element("p", { className: "where" }),
    curves: element("div", { className: "curves" }),
  };
  const pace = element("div", { className: "pace" }, parts.left, parts.cancel);
  const made = element("li", { className: "run" },
    element("div", { className: "canvas-box" }, parts.picture),
    element("div", { className: "text" }, parts.title, parts.inputs, pace, parts.bar, parts.where, parts.curves));
  made.parts = parts;
  return made;
}

// What is known from the start, or little later: it changes once.
function updateInputs(made, run) {
  const { picture, title, inputs, bar, cancel } = made.parts;
  const known = [run.name, run.contentName, run.styleName, run.content, run.style, run.canCancel].join(" ");
  if (made.knows === known) return;
  made.knows = known;
  const name = run.contentName || run.name;
  title.textContent = visible(name);
  picture.alt = visible(`${name} ${run.styleName ? `in the style ${run.styleName}` : ""}, as it is now`);
  bar.setAttribute("aria-label", visible(`Steps of ${name}`));
  const plus = element("span", { "aria-hidden": "true" }, "+");
  const pair = [thumb(run.content), plus, thumb(run.style), element("span", {}, run.styleName)];
  inputs.replaceChildren(...(run.styleName ? pair : []));
  cancel.replaceChildren(run.canCancel ? action("Cancel", name, `/api/running/${run.id}/cancel`) : "");
}

function thumb(address) {
  const place = element("span", { className: "input" });
  showFaces(place, [address]);
  return place;
}

export function updateRun(made, run) {
  updateInputs(made, run);
  const { picture, bar, left, where, curves } = made.parts;
  const address = run.picture || run.content;
  if (address && picture.shows !== address) {
    picture.shows = address;
    const next = new Image();
    next.src = address;
    // Shown when it is there: no flicker between two of them. One that has gone already is left out.
    next.decode().then(() => {
      picture.src = address;
      picture.parentElement.style.setProperty("--ratio", String(next.naturalWidth / next.naturalHeight));
    }, () => {});
  }
  made.classList.toggle("begins", !run.picture);
  if (run.steps) [bar.max, bar.value] = [run.steps, stepsMade(run)];
  else bar.removeAttribute("value");
  left.textContent = timeLeft(run) || "Getting ready";
  const level = run.levels > 1 && run.level ? `level ${run.level} of ${run.levels}` : "";
  const size = run.width && run.height ? `${run.width} × ${run.height}` : "";
  const step = run.steps ? `step ${run.step.toLocaleString()} of ${run.steps.toLocaleString()}` : "";
  const tile = run.tiles ? `tile ${run.tile.toLocaleString()} of ${run.tiles.toLocaleString()}` : "";
  where.textContent = [step, tile, level, size].filter(Boolean).join(" · ");
  const drawing = liveCurves(run.losses);
  curves.replaceChildren(...drawing);
}

// The steps of a running picture, with the part of the next one that is made.
export function stepsMade(run) {
  return run.step + (run.tiles ? run.tile / run.tiles : 0);
}

// How long a running picture will take, once it has got going: its first steps are slow.
export function timeLeft(run) {
  const isKnown = run.secondsLeft !== null && run.secondsLeft !== undefined && run.step >= WARM;
  return isKnown ? `${roughly(run.secondsLeft)} left` : "";
}

// Loss curves from plain numbers, on one logarithmic scale.
function liveCurves(losses) {
  const names = ["total", "content", "style"].filter((name) => losses?.[name]?.length > 1);
  if (!names.length) return [];
  const logs = names.map((name) => losses[name].map((value) => (value > 0 ? Math.log(value) : null)));
  const known = logs.flat().filter((value) => value !== null);
  const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  const height = (value) => (value === null ? 1 : 1 - (value - low) / (high - low || 1));
  const lines = Object.fromEntries(names.map((name, index) => [name, logs[index].map(height)]));
  const ends = Object.fromEntries(names.map((name) => [name, losses[name].at(-1).toPrecision(3)]));
  const sizes = losses.size ?? [];
  const levels = sizes.flatMap((size, index) => (index && size === sizes[index - 1] ? [] : [[index, size]]));
  const { svg, legend } = lossCurves({ steps: [losses.steps[0], losses.steps.at(-1)], levels, lines, ends });
  return [svg, legend];
}

// Waiting

export function makeWait(wait) {
  const made = element("li", { className: "row" }, element("span", { className: "thumb" }),
    element("div", { className: "text" }, element("b", { title: wait.name }, wait.name), element("span", { className: "note-line" })),
    element("span", { className: "buttons" }));
  return made;
}

export function updateWait(made, wait) {
  const [thumb, text, buttons] = made.children;
  showFaces(thumb, wait.faces);
  const styles = wait.styles.length ? wait.styles.join(", ") : wait.folder || "every style";
  text.lastChild.textContent = visible([styles, waitsFor(wait.reason)].filter(Boolean).join(" · "));
  if (wait.reason === CANCELLED) return buttons.replaceChildren();
  const [first, cancel] = ["first", "cancel"].map((what) => `/api/waiting/${wait.id}/${what}`);
  buttons.replaceChildren(
    wait.isNext ? "" : titled(action("First", wait.name, first), "Paint this one next"), action("Cancel", wait.name, cancel));
}

function waitsFor(reason) {
  if (reason === "to settle") return "is still being copied";
  return reason.startsWith("to ") ? `waits ${reason}` : reason;
}

// Failed

export function makeFailure(failure) {
  const several = failure.failures?.length > 1
    ? failure.failures.map((one) => element("li", {}, `${one.name}: ${one.error}`)) : [];
  const date = failure.when ? new Date(1000 * failure.when).toISOString() : "";
  const time = date ? element("time", { dateTime: date }, when(date)) : element("span");
  const retry = failure.canRetry ? action("Retry", failure.name, `/api/failed/${failure.id}/retry`) : "";
  const note = element("div", { className: "note" }, element("b", { title: failure.name }, failure.name),
    element("p", { className: "error" }, failure.error || "It failed for an unknown reason."),
    several.length ? element("ul", { className: "notes" }, ...several) : "",
    failure.nextStep ? element("p", { className: "step" }, failure.nextStep) : "",
    element("div", { className: "bottom" }, time, retry));
  return element("li", { className: failure.cancelled ? "cancelled" : "failed" }, note);
}

// Done

export function makePicture(picture) {
  const image = element("img", { alt: describe(asInSheet(picture)), loading: "lazy", decoding: "async", src: picture.thumb });
  if (picture.width && picture.height) [image.width, image.height] = [picture.width, picture.height];
  const link = element("a", { className: "card", href: `#picture=${encodeURIComponent(picture.id)}` }, image,
    element("span", { className: "caption" }, element("b", { title: picture.contentName }, picture.contentName || picture.name),
      element("span", { title: picture.name }, [picture.styleName, took(picture)].filter(Boolean).join(" · "))));
  return element("li", {}, link);
}

const took = (picture) => (picture.seconds ? duration(picture.seconds) : "");

// What the slider and the descriptions of the sheet read.
export function asInSheet(picture) {
  return { ...picture, style: picture.style ?? picture.styleName };
}
