// The cards of what is made, waits, failed and is done. Buttons carry what they do and to what: see `actions` in page.js.

import { describe, duration, element, roughly, visible, when } from "./dom.js";
import { lossCurves } from "./curves.js";

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

export function makeRun(run) {
  const picture = element("img", { className: "canvas", alt: `${run.name}, as it is now`, decoding: "async" });
  const parts = {
    picture,
    title: element("h3", {}, run.contentName || run.name),
    bar: element("progress", { max: 1, "aria-label": `Steps of ${run.name}` }),
    left: element("p", { className: "time-left" }),
    where: element("p", { className: "where" }),
    curves: element("div", { className: "curves" }),
  };
  const made = element("li", { className: "run" },
    element("div", { className: "canvas-box" }, picture),
    element("div", { className: "text" }, parts.title, inputs(run),
      element("div", { className: "pace" }, parts.left, run.canCancel ? action("Cancel", run.name, `/api/running/${run.id}/cancel`) : ""),
      parts.bar, parts.where, parts.curves));
  made.firstChild.style.setProperty("--ratio", String((run.width || 4) / (run.height || 3)));
  made.parts = parts;
  return made;
}

function inputs(run) {
  const small = (address, text) => {
    const image = address ? element("img", { alt: "", src: address, loading: "lazy" }) : "";
    if (image) image.addEventListener("error", () => image.remove());
    return element("span", { className: "input" }, image, text);
  };
  return element("p", { className: "inputs" }, small(run.content, ""),
    element("span", { className: "plus", "aria-hidden": "true" }, "+"), small(run.style, run.styleName));
}

export function updateRun(made, run) {
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
  if (run.steps) [bar.max, bar.value] = [run.steps, run.step];
  else bar.removeAttribute("value");
  left.textContent = run.secondsLeft === null || run.secondsLeft === undefined
    ? (run.step ? "" : "Getting ready") : `${roughly(run.secondsLeft)} left`;
  const level = run.levels > 1 && run.level ? `level ${run.level} of ${run.levels}` : "";
  const size = run.width && run.height ? `${run.width} × ${run.height}` : "";
  const step = run.steps ? `step ${run.step.toLocaleString()} of ${run.steps.toLocaleString()}` : "";
  where.textContent = [step, level, size].filter(Boolean).join(" · ");
  const drawing = liveCurves(run.losses);
  curves.replaceChildren(...drawing);
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

// `thumbs` are addresses: of the photograph where this page knows it, else of its styles.
export function updateWait(made, wait, thumbs, isNext) {
  const [thumb, text, buttons] = made.children;
  showFaces(thumb, thumbs);
  const styles = wait.styles.length > 3 ? `${wait.styles.length} styles` : wait.styles.join(", ");
  text.lastChild.textContent = visible([styles, wait.reason].filter(Boolean).join(" · "));
  const name = wait.name;
  buttons.replaceChildren(
    wait.canFirst && !isNext ? titled(action("First", name, `/api/waiting/${wait.id}/first`), "Paint this one next") : "",
    wait.canCancel ? action("Cancel", name, `/api/waiting/${wait.id}/cancel`) : "");
}

// Failed

export function makeFailure(failure) {
  const several = failure.failures?.length > 1
    ? failure.failures.map((one) => element("li", {}, `${one.name}: ${one.error}`)) : [];
  const when_ = failure.when ? element("time", { dateTime: failure.when }, when(failure.when)) : "";
  const note = element("div", { className: "note" }, element("b", {}, failure.name),
    element("p", { className: "error" }, failure.error || "It failed for an unknown reason."),
    several.length ? element("ul", { className: "notes" }, ...several) : "",
    failure.nextStep ? element("p", { className: "step" }, failure.nextStep) : "",
    element("div", { className: "bottom" }, when_,
      failure.canRetry ? action("Retry", failure.name, `/api/failed/${failure.id}/retry`) : ""));
  return element("li", { className: "failed" }, note);
}

// Done

export function makePicture(picture) {
  const image = element("img", { alt: describe(asInSheet(picture)), loading: "lazy", decoding: "async", src: picture.thumb });
  if (picture.width && picture.height) [image.width, image.height] = [picture.width, picture.height];
  const link = element("a", { className: "card", href: `#picture=${encodeURIComponent(picture.id)}` }, image,
    element("span", { className: "caption" }, element("b", {}, picture.contentName || picture.name),
      element("span", { title: picture.name }, [picture.styleName, took(picture)].filter(Boolean).join(" · "))));
  return element("li", {}, link);
}

const took = (picture) => (picture.seconds ? duration(picture.seconds) : "");

// What the slider and the descriptions of the sheet read.
export function asInSheet(picture) {
  return { ...picture, style: picture.style ?? picture.styleName };
}
