// What the page asks of its server. Failures are `Refused`, with what happened and what to do next.

const QUIET_MS = 1500; // a connection lost for less than this is not worth a word
const AGAIN_MS = 3000;

export class Refused extends Error {
  constructor(message, nextStep, status = 0) {
    super(message);
    this.nextStep = nextStep ?? "";
    this.status = status;
  }
}

const NO_ANSWER = ["The server does not answer.", "Try again when the page is connected."];

function refusal(status, text) {
  try {
    const { error, nextStep } = JSON.parse(text);
    return new Refused(error, nextStep, status);
  } catch {
    return new Refused(`The server answered ${status}.`, "Try again.", status);
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused(...NO_ANSWER);
  }
  const text = await answer.text();
  if (!answer.ok) throw refusal(answer.status, text);
  return text ? JSON.parse(text) : null;
}

export const get = (path) => ask(path, {});
export const post = (path) => ask(path, { method: "POST" });

// The address that the program printed holds a token; it is exchanged for a cookie and leaves the address.
export async function signIn() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname);
  const headers = { "Content-Type": "application/json" };
  await ask("/api/session", { method: "POST", headers, body: JSON.stringify({ token }) });
}

// Send a file. `onShare` is told how much has been sent, from 0 to 1.
export function put(path, file, onShare) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", path);
    request.upload.addEventListener("progress", (event) => event.total && onShare(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status < 400) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.responseText));
    });
    request.addEventListener("error", () => reject(new Refused("It could not be sent.", NO_ANSWER[1])));
    request.send(file);
  });
}

// Follow what happens, for as long as the page is open. `on` has the functions state, progress, lost and refused.
export function follow(on) {
  const events = new EventSource("/api/events");
  let quiet = 0;
  events.addEventListener("state", (event) => {
    clearTimeout(quiet);
    quiet = 0;
    on.state(JSON.parse(event.data));
  });
  events.addEventListener("progress", (event) => on.progress(JSON.parse(event.data)));
  events.addEventListener("error", async () => {
    quiet ||= setTimeout(on.lost, QUIET_MS);
    if (events.readyState !== EventSource.CLOSED) return; // it tries again by itself
    try {
      await get("/api/state");
    } catch (error) {
      if (error.status === 401) {
        clearTimeout(quiet);
        return on.refused(error);
      }
    }
    setTimeout(() => {
      clearTimeout(quiet);
      follow(on);
    }, AGAIN_MS);
  });
}
