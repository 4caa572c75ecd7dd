// Runs while they train: facts, curves, previews with a slider, alarms; and two runs beside each other.
import { $, ask, element, pixels, say, state } from "./common.js";
import { make } from "./jobs.js";

const EVERY = 10000; // milliseconds between looks at a run that trains
const pair = { jobs: [null, null], infos: [null, null] };
const timers = new Map();

function facts(found) {
  const list = element("dl", { className: "facts" });
  for (const [name, value] of Object.entries(found)) {
    list.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
  }
  return list;
}

function previews(run, found, before) {
  const slider = element("input", { type: "range", min: 0, max: found.length - 1, ariaLabel: "Step of the preview" });
  const image = element("img"), said = element("output");
  slider.value = before === null ? found.length - 1 : before;
  slider.className = "steps";
  const show = () => {
    const { step, name } = found[slider.value];
    image.src = `/api/runs/${run}/previews/${name}`;
    image.alt = said.textContent = "step " + step.toLocaleString("en");
    slider.setAttribute("aria-valuetext", said.textContent);
  };
  slider.oninput = show;
  show();
  slider.hidden = found.length < 2;
  return [element("h3", { textContent: "Previews" }), element("label", { className: "slider" }, slider, said), image];
}

function alarms(found) {
  const list = element("ul", { className: "bad" });
  list.append(...found.map(({ step, what }) => element("li", { textContent: `step ${step.toLocaleString("en")}: ${what}` })));
  return [element("h3", { textContent: "Alarms" }), list];
}

export async function showTraining(run, place) {
  clearTimeout(timers.get(place));
  try {
    const found = await ask(`runs/${run}/training`), moved = place.querySelector(".steps");
    const before = moved && place.dataset.run === String(run) && moved.value !== moved.max ? moved.value : null;
    const curves = element("div");
    curves.innerHTML = found.charts;
    place.replaceChildren(
      facts(found.facts),
      ...(found.alarms.length ? alarms(found.alarms) : []),
      ...(found.previews.length ? previews(run, found.previews, before) : []),
      curves,
    );
    place.dataset.run = run;
    place.append(element("script", { src: "/part/page.js?" + Math.random() })); // curves tell their values
    const shown = place.closest("[role=tabpanel]");
    if (found.training) timers.set(place, setTimeout(() => !shown.hidden && showTraining(run, place), EVERY));
  } catch (error) { place.textContent = error.message; }
}

async function showPair() {
  const form = $("pair"), sides = [...document.querySelectorAll(".side")];
  for (const [side, name] of [[0, "one"], [1, "other"]]) {
    const run = Number(form.elements[name].value);
    sides[side].querySelector("h3").textContent = state.runs[run].name;
    sides[side].querySelector(".row").replaceChildren();
    pair.infos[side] = await ask("runs/" + run);
    await showTraining(run, sides[side].querySelector(".watch"));
  }
}

export function fillPair(runs) {
  const form = $("pair");
  if (form.elements.one.options.length) return showPair();
  for (const [name, place] of [["one", 0], ["other", Math.min(1, runs.length - 1)]]) {
    form.elements[name].replaceChildren(...runs.map((run) => new Option(run.name, run.number)));
    form.elements[name].value = place;
    form.elements[name].onchange = showPair;
  }
  showPair();
}

export function pairMade(event) {
  const side = pair.jobs.indexOf(event.job);
  if (side < 0) return;
  const row = document.querySelectorAll(".side")[side].querySelector(".row");
  row.append(...event.items.map((item) => element("li", {}, pixels(item, pair.infos[side]))));
}

$("pair").onsubmit = async (event) => {
  event.preventDefault();
  const form = $("pair").elements, job = { kind: "sample", count: form.count.value, seed: form.seed.value };
  for (const row of document.querySelectorAll(".row")) row.replaceChildren();
  pair.jobs = [null, null];
  for (const [side, name] of [[0, "one"], [1, "other"]]) {
    if (!pair.infos[side]?.sampled) { say(pair.infos[side]?.why ?? "", true); continue; }
    pair.jobs[side] = await make(job, Number(form[name].value));
  }
};
