// The page: it follows what the server says, and shows it.

import { at, counted, element, roughly, visible } from "./dom.js";
import { asInSheet, makeFailure, makePicture, makeRun, makeWait, updateRun, updateWait } from "./cards.js";
import { parts } from "./details.js";
import { keyed } from "./keyed.js";
import { follow, get, post, signIn } from "./server.js";
import { comparison } from "./slider.js";
import { Styles } from "./styles.js";
import { Uploads } from "./uploads.js";
import { Viewer } from "./viewer.js";

const NAME = "style-pipeline";
const FEW_WAITING = 8;
const FAREWELL_MS = 6000;

let state = null; // the last that the server said
let isLost = false;
let older = { pictures: [], next: null }; // further back than the state goes
let showsAllWaiting = false;

const uploads = new Uploads(at("uploads"), showWaiting);
const styles = new Styles(uploads, () => say("Drop photos on a style.", "", { alert: true }));

// What is said once, at the bottom of the page

function say(text, more = "", { alert = false } = {}) {
  const close = element("button", { type: "button", "aria-label": "Dismiss this message" }, "\u2715");
  const made = element("div", { className: alert ? "notice bad" : "notice" }, element("p", {}, text, more ? ` ${more}` : ""), close);
  if (alert) made.setAttribute("role", "alert");
  close.addEventListener("click", () => made.remove());
  at("notices").append(made);
  if (!alert || !more) setTimeout(() => made.remove(), FAREWELL_MS);
  while (at("notices").children.length > 3) at("notices").firstChild.remove();
}

// The head

const DOING = {
  none: "No daemon is running.",
  idle: "Ready. Nothing waits.",
  working: "At work.",
  paused: "Paused.",
  fault: "Waiting for the machine.",
};

function showHead() {
  const { daemon, running, waitingCount, waitingSeconds } = state;
  const run = running[0];
  const facts = [];
  if (run) {
    const more = running.length > 1 ? ` and ${running.length - 1} more` : "";
    facts.push(`Painting ${run.contentName || run.name}${more}`);
  } else if (daemon) {
    facts.push(daemon.state === "idle" && waitingCount ? DOING.working : DOING[daemon.state]);
  } else {
    facts.push("Ready to show what a run makes.");
  }
  if (run?.secondsLeft) facts.push(`${roughly(run.secondsLeft)} left`);
  if (waitingCount) facts.push(`${waitingCount.toLocaleString()} waiting${waitingSeconds ? `, ${roughly(waitingSeconds)}` : ""}`);
  at("doing").textContent = visible(facts.join(" · "));
  const share = run?.steps ? `${Math.floor((100 * run.step) / run.steps)} % ` : "";
  document.title = viewer.isOpen ? document.title : visible(run ? `${share}${run.contentName || run.name} – ${NAME}` : NAME);
  showControl();
}

function showControl() {
  const isPaused = state.daemon?.state === "paused";
  const wanted = isPaused ? "Resume" : state.daemon?.alive ? "Pause" : "";
  const there = at("control").firstChild;
  if ((there?.textContent ?? "") === wanted) return;
  if (!wanted) return at("control").replaceChildren();
  const button = there ?? element("button", { type: "button" });
  button.className = isPaused ? "primary" : "";
  button.dataset.post = `/api/daemon/${wanted.toLowerCase()}`;
  button.textContent = wanted;
  button.title = isPaused ? "Make pictures again" : "Stop after the current step; the picture resumes where it was";
  if (!there) at("control").append(button);
}

// What is wrong, above everything

function showTrouble() {
  const { daemon } = state ?? {};
  const notes = [];
  if (isLost) {
    notes.push(["bad", "The connection is lost.",
      "The program that serves this page does not answer. Nothing that was sent is lost, and this page connects again by itself. "
      + "If the program was ended, start it again: ", "style-pipeline watch --page"]);
  } else if (daemon && !daemon.alive) {
    notes.push(["", "No daemon is running.", "Nothing is painted until one is started. In a terminal: ", "style-pipeline watch"]);
  } else if (daemon?.state === "fault") {
    notes.push(["bad", "The work is paused by a fault. No picture is lost.", daemon.text, ""]);
  }
  if (!isLost && state?.problem) {
    notes.push(["bad", "Not everything can be shown.", `${state.problem.error} ${state.problem.nextStep}`, ""]);
  }
  const made = notes.map(([kind, title, text, command]) => element("div", { className: kind ? "failed" : "" },
    element("p", { className: "note" }, element("b", {}, title), text, command ? element("code", {}, command) : "")));
  if (at("trouble").textContent === made.map((one) => one.textContent).join("")) return;
  at("trouble").replaceChildren(...made);
}

// Sections

function showSections() {
  const { inbox, done, failed, failedCount, running } = state;
  at("styles").hidden = !inbox;
  if (inbox) styles.show(state.styles);
  showWelcome();
  keyed(at("runs"), running, makeRun, updateRun);
  at("running").hidden = !running.length;
  showWaiting();
  at("failed").hidden = !failedCount;
  keyed(at("failures"), failed, makeFailure);
  at("failed-title").textContent = failedCount > 1 ? `Failed (${failedCount.toLocaleString()})` : "Failed";
  at("retry-all").hidden = failed.filter((one) => one.canRetry).length < 2;
  at("failures-more").textContent = failedCount > failed.length ? `The newest ${failed.length} are shown.` : "";
  showDone(done);
  const folders = [["Finished pictures", state.outbox], ["Dropped photos", inbox]].filter(([, path]) => path);
  at("foot").replaceChildren(...folders.map(([what, path]) => element("p", {}, `${what}: `, element("code", {}, path))));
}

function showWelcome() {
  const isNew = !state.doneCount && !state.failedCount && !state.running.length && !state.waitingCount && !uploads.count;
  at("welcome").hidden = !isNew;
  if (!isNew || at("welcome").dataset.shows === `${state.inbox} ${state.styles.length > 0}`) return;
  at("welcome").dataset.shows = `${state.inbox} ${state.styles.length > 0}`;
  const steps = [
    ["Add a style", "A picture of a painting, a drawing or a pattern. It stays here for all photos to come.", state.styles.length > 0],
    ["Drop photos on it", "Or click the style to choose them.", false],
    ["Watch them being painted", "They appear below while they are made, and stay there when they are done.", false],
  ];
  const list = element("ol", { className: "steps" }, ...steps.map(([title, text, isOver]) =>
    element("li", { className: isOver ? "over" : "" }, element("b", {}, title), element("span", {}, text))));
  at("welcome").replaceChildren(
    element("h2", { id: "welcome-title", tabIndex: -1 }, state.inbox ? "Paint your photos" : "No pictures yet"),
    state.inbox ? list : element("p", { className: "hint" }, "The pictures of a run appear here as they are made."));
}

function showWaiting() {
  if (!state) return;
  const { waiting, waitingCount } = state;
  uploads.settle(new Set([...waiting, ...state.styles].map((one) => one.id)));
  uploads.keep(new Set(waiting.map((one) => one.id)));
  const shown = showsAllWaiting ? waiting : waiting.slice(0, FEW_WAITING);
  const rows = shown.map((wait, place) => ({ ...wait, faces: faces(wait), isNext: place === 0 }));
  keyed(at("queue"), rows, makeWait, updateWait);
  at("waiting").hidden = !waitingCount && !uploads.count;
  at("waiting-title").textContent = waitingCount > 1 ? `Waiting (${waitingCount.toLocaleString()})` : "Waiting";
  const hidden = waitingCount - shown.length;
  at("queue-more").replaceChildren();
  if (!hidden) return;
  if (showsAllWaiting) at("queue-more").append(`and ${hidden.toLocaleString()} more`);
  else at("queue-more").append(button(`Show all ${waitingCount.toLocaleString()}`, () => { showsAllWaiting = true; showWaiting(); }));
}

// The photograph where it was sent from here, else its styles.
function faces(wait) {
  const preview = uploads.previews.get(wait.id);
  if (preview) return [preview];
  const names = new Set(wait.styles);
  return state.styles.filter((style) => (wait.folder ? names.has(style.name) : style.canDrop)).map((style) => style.thumb);
}

function button(label, onClick) {
  const made = element("button", { type: "button" }, label);
  made.addEventListener("click", onClick);
  return made;
}

function allDone() {
  const ids = new Set(state.done.map((one) => one.id));
  return [...state.done, ...older.pictures.filter((one) => !ids.has(one.id))];
}

function showDone() {
  const pictures = allDone();
  keyed(at("pictures"), pictures, makePicture, (made, picture) => {
    if (made.shows) made.replaceChildren(...makePicture(picture).children);
  });
  at("done").hidden = at("welcome").hidden === false;
  at("done-title").textContent = state.doneCount > 1 ? `Done (${state.doneCount.toLocaleString()})` : "Done";
  at("done-empty").textContent = pictures.length ? "" : "Finished pictures appear here, the newest first.";
  at("older").hidden = !(older.next ?? state.doneNext);
}

at("older").addEventListener("click", async () => {
  at("older").disabled = true;
  try {
    const cursor = older.next ?? state.doneNext;
    const before = [...state.done, ...older.pictures];
    const { pictures, next } = await get(`/api/pictures?before=${encodeURIComponent(cursor)}`);
    const known = new Set(older.pictures.map((one) => one.id));
    // What the state shows now stays shown when newer pictures push it out.
    const kept = before.filter((one) => !known.has(one.id));
    older = { pictures: [...kept, ...older.pictures, ...pictures], next };
    showDone();
  } catch (error) {
    say(error.message, error.nextStep, { alert: true });
  }
  at("older").disabled = false;
});

// Actions

document.addEventListener("click", async (event) => {
  const pressed = event.target.closest("button[data-post]");
  if (!pressed || pressed.getAttribute("aria-disabled") === "true") return;
  pressed.setAttribute("aria-disabled", "true");
  try {
    const answer = await post(pressed.dataset.post);
    for (const one of answer?.errors ?? []) say(one.error, one.nextStep, { alert: true });
  } catch (error) {
    say(error.message, error.nextStep, { alert: true });
  }
  pressed.removeAttribute("aria-disabled");
});
at("retry-all").dataset.post = "/api/failed/retry";

// One picture, large. The fragment names it, so that Back closes it.

const viewer = new Viewer(step, () => {
  if (location.hash.startsWith("#picture=")) history.replaceState(null, "", location.pathname);
  at("pictures").querySelector(`[data-id="${CSS.escape(shown)}"] a`)?.focus();
  showHead();
});
let shown = "";

function linked() {
  const found = location.hash.match(/^#picture=(.+)$/);
  return found ? decodeURIComponent(found[1]) : "";
}

async function showLinked() {
  const id = linked();
  if (!id) return viewer.isOpen && viewer.close();
  const pictures = allDone();
  const place = pictures.findIndex((one) => one.id === id);
  const known = pictures[place];
  shown = id;
  try {
    if (known) viewer.show(known.name, place, pictures.length, comparison(asInSheet(known)), []);
    const picture = await get(`/api/pictures/${encodeURIComponent(id)}`);
    if (shown !== id || linked() !== id) return; // it has moved on
    const large = known ? viewer.stage.firstChild : comparison(picture);
    viewer.show(picture.name, Math.max(0, place), Math.max(1, pictures.length), large, parts({ ...picture, download: `${picture.image}&download=1` }, picture.recipe));
    document.title = visible(`${picture.name} – ${NAME}`);
  } catch (error) {
    say(error.message, error.nextStep, { alert: true });
  }
}

function step(by) {
  const pictures = allDone();
  const next = pictures[pictures.findIndex((one) => one.id === shown) + by];
  if (next) location.replace(`#picture=${encodeURIComponent(next.id)}`);
}

// The stream

function show(fresh) {
  tell(state, fresh);
  const before = state;
  state = fresh;
  uploads.limit = state.maxUploadBytes ?? Infinity;
  uploads.settle();
  if (isLost) {
    isLost = false;
    say("Connected again.");
  }
  if (before && before.server.version !== fresh.server.version) location.reload();
  document.body.classList.remove("lost");
  at("main").setAttribute("aria-busy", "false");
  showSections();
  showHead();
  showTrouble();
  if (!before) showLinked();
}

// Say what has happened since, for those who do not see it.
function tell(before, now) {
  if (!before) return;
  const known = new Set([...before.done, ...older.pictures].map((one) => one.id));
  const made = now.done.filter((one) => !known.has(one.id));
  if (made.length && now.doneCount > before.doneCount) say(made.length === 1 ? `${made[0].name} is done.` : `${counted(made.length, "picture")} are done.`);
  const failures = new Set(before.failed.map((one) => one.id));
  for (const one of now.failed.filter((failure) => !failures.has(failure.id)).slice(0, 2)) say(`${one.name} failed.`);
}

function begin() {
  follow({
    state: show,
    progress: ({ running }) => {
      if (!state) return;
      state.running = running;
      keyed(at("runs"), running, makeRun, updateRun);
      at("running").hidden = !running.length;
      showHead();
    },
    lost: () => {
      isLost = true;
      document.body.classList.add("lost");
      showTrouble();
    },
    refused: refuse,
  });
}

function refuse(error) {
  at("main").replaceChildren(element("p", { className: "note" }, element("b", {}, error.message), error.nextStep));
}

addEventListener("hashchange", async () => {
  if (location.hash.startsWith("#token=")) location.reload();
  else if (state) showLinked();
});
signIn().then(begin, refuse);
