// Elements from text, and figures in words. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
export const at = (id) => document.getElementById(id);

// Characters that turn around or hide what stands beside them are shown by their numbers.
export function visible(text) {
  const number = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return text.replace(/[\0-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, number);
}

export function element(name, properties = {}, ...children) {
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

export function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function counted(number, noun) {
  return `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// A time that is only estimated.
export function roughly(seconds) {
  return seconds < 50 ? "less than a minute" : `about ${duration(Math.max(60, seconds))}`;
}

export function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export function describe(picture) {
  const made = picture.contentName ? `${picture.contentName} in the style ${picture.style ?? ""}` : picture.name;
  return picture.difference ? `${made}, ${picture.difference}` : made;
}

export function grouped(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(item[key], [...(groups.get(item[key]) ?? []), item]);
  return groups;
}
