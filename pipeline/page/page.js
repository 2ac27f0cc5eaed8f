// The page: it follows what the server says, and shows it.

import { at, counted, element, roughly, visible } from "./dom.js";
import { makeFailure, makeRun, makeWait, stepsMade, timeLeft, updateRun, updateWait } from "./cards.js";
import { Gallery } from "./gallery.js";
import { keyed, remade } from "./keyed.js";
import { say, sayError } from "./notices.js";
import { follow, get, post, signIn } from "./server.js";
import { Styles } from "./styles.js";
import { Uploads } from "./uploads.js";

const NAME = "style-pipeline";
const FEW_WAITING = 8;

let state = null; // the last that the server said
let isLost = false;
let showsAllWaiting = false;

const uploads = new Uploads(at("uploads"), showWaiting);
const styles = new Styles(uploads, () => say("Drop photos on a style.", "", { isError: true }));
const gallery = new Gallery(() => showHead());

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
    facts.push("Nothing is running.");
  }
  if (run && timeLeft(run)) facts.push(timeLeft(run));
  if (waitingCount) facts.push(`${waitingCount.toLocaleString()} waiting${waitingSeconds ? `, ${roughly(waitingSeconds)}` : ""}`);
  at("doing").textContent = visible(facts.join(" · "));
  const share = run?.steps ? `${Math.floor((100 * stepsMade(run)) / run.steps)} % ` : "";
  if (!gallery.viewer.isOpen) document.title = visible(run ? `${share}${run.contentName || run.name} – ${NAME}` : NAME);
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
  button.title = isPaused ? "Make pictures again" : "Stop for now; the picture resumes where it was";
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
  const { inbox, failed, failedCount, running } = state;
  hide("styles", !inbox);
  if (inbox) styles.show(state.styles);
  showWelcome();
  keyed(at("runs"), running, makeRun, updateRun);
  hide("running", !running.length);
  showWaiting();
  hide("failed", !failedCount);
  keyed(at("failures"), failed, makeFailure, remade(makeFailure));
  const title = failed.some((one) => one.cancelled) ? "Failed or cancelled" : "Failed";
  at("failed-title").textContent = failedCount > 1 ? `${title} (${failedCount.toLocaleString()})` : title;
  at("retry-all").hidden = failed.filter((one) => one.canRetry).length < 2;
  at("failures-more").textContent = failedCount > failed.length ? `The newest ${failed.length} are shown.` : "";
  gallery.show(state);
  hide("done", !at("welcome").hidden);
  const folders = [["Finished pictures", state.outbox], ["Dropped photos", inbox]].filter(([, path]) => path);
  at("foot").replaceChildren(...folders.map(([what, path]) => element("p", {}, `${what}: `, element("code", {}, path))));
}

// What has the focus must not vanish with its section.
function hide(name, isHidden) {
  if (isHidden && at(name).contains(document.activeElement)) at("head").querySelector("h1").focus({ preventScroll: true });
  at(name).hidden = isHidden;
}

function showWelcome() {
  const isNew = !state.doneCount && !state.failedCount && !state.running.length && !state.waitingCount && !uploads.count;
  at("welcome").hidden = !isNew;
  if (!isNew || at("welcome").dataset.shows === `${state.inbox} ${state.styles.length > 0}`) return;
  at("welcome").dataset.shows = `${state.inbox} ${state.styles.length > 0}`;
  const steps = [
    ["Add a style", "A picture of a painting, a drawing or a pattern. It stays here for all photos to come.",
      state.styles.length > 0],
    ["Drop photos on it", "Or click the style to choose them.", false],
    ["Watch them being painted", "They appear below while they are made, and stay there when they are done.", false],
  ];
  const list = element("ol", { className: "steps" }, ...steps.map(([title, text, isOver]) =>
    element("li", { className: isOver ? "over" : "" }, element("b", {}, title), element("span", {}, text))));
  at("welcome").replaceChildren(
    element("h2", { id: "welcome-title", tabIndex: -1 }, state.inbox ? "Paint your photos" : "No pictures yet"),
    state.inbox ? list : element("p", { className: "hint" }, "The pictures of a run appear here while they are made. "
      + "To drop photos on this page and have them painted, start it with ", element("code", {}, "style-pipeline watch --page"), "."));
}

function showWaiting() {
  if (!state) return;
  const { waiting, waitingCount } = state;
  uploads.settle(new Set([...waiting, ...state.styles].map((one) => one.id)));
  uploads.keep(new Set(waiting.map((one) => one.id)));
  const shown = showsAllWaiting ? waiting : waiting.slice(0, FEW_WAITING);
  const rows = shown.map((wait, place) => ({ ...wait, faces: faces(wait), isNext: place === 0 }));
  keyed(at("queue"), rows, makeWait, updateWait);
  hide("waiting", !waitingCount && !uploads.count);
  at("waiting-title").textContent = waitingCount > 1 ? `Waiting (${waitingCount.toLocaleString()})` : "Waiting";
  at("show-all").hidden = showsAllWaiting || waiting.length <= FEW_WAITING;
  at("show-all").textContent = `Show all ${waitingCount.toLocaleString()}`;
  at("queue-more").textContent = showsAllWaiting && waitingCount > waiting.length
    ? `and ${(waitingCount - waiting.length).toLocaleString()} more` : "";
}

at("show-all").addEventListener("click", () => {
  showsAllWaiting = true;
  showWaiting();
  at("waiting-title").focus();
});

// The photograph where it was sent from here, else its styles.
function faces(wait) {
  const preview = uploads.previews.get(wait.id);
  if (preview) return [preview];
  const names = new Set(wait.styles);
  return state.styles.filter((style) => (wait.folder ? names.has(style.name) : style.canDrop)).map((style) => style.thumb);
}

// Actions

document.addEventListener("click", async (event) => {
  const pressed = event.target.closest("button[data-post]");
  if (!pressed || pressed.getAttribute("aria-disabled") === "true") return;
  pressed.setAttribute("aria-disabled", "true");
  try {
    const answer = await post(pressed.dataset.post);
    for (const one of answer?.errors ?? []) say(one.error, one.nextStep, { isError: true });
  } catch (error) {
    sayError(error);
  }
  pressed.removeAttribute("aria-disabled");
});
at("retry-all").dataset.post = "/api/failed/retry";

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
  if (!before) gallery.showLinked();
}

// Say what has happened since, for those who do not see it.
function tell(before, now) {
  if (!before) return;
  const known = new Set([...before.done, ...gallery.older].map((one) => one.id));
  const made = now.done.filter((one) => !known.has(one.id));
  if (made.length && now.doneCount > before.doneCount) {
    say(made.length === 1 ? `${made[0].name} is done.` : `${counted(made.length, "picture")} are done.`);
  }
  const failures = new Set(before.failed.map((one) => one.id));
  for (const one of now.failed.filter((failure) => !failures.has(failure.id)).slice(0, 2)) {
    say(one.cancelled ? `${one.name} was cancelled.` : `${one.name} failed.`, one.cancelled ? one.nextStep : "");
  }
}

function begin() {
  follow({
    state: show,
    progress: ({ running }) => {
      if (!state) return;
      state.running = running;
      keyed(at("runs"), running, makeRun, updateRun);
      hide("running", !running.length);
      showHead();
    },
    lost: () => {
      isLost = true;
      document.body.classList.add("lost");
      at("doing").textContent = "Not connected.";
      document.title = `Not connected – ${NAME}`;
      showTrouble();
    },
    refused: refuse,
  });
}

function refuse(error) {
  at("main").replaceChildren(element("p", { className: "note" }, element("b", {}, error.message), error.nextStep));
}

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) location.reload();
  else if (state) gallery.showLinked();
});
// A token that is too old does no harm where the cookie of an earlier one is good.
signIn().catch((error) => get("/api/state").catch(() => { throw error; })).then(begin, refuse);
