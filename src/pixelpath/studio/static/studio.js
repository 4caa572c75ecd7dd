// The page: which run and view is shown, the gallery of a run, and images as they are made.
import { $, ask, conditionPicture, element, find, number, pixels, say, state } from "./common.js";
import { openEditor, opened, refreshEditor } from "./editor.js";
import { asked, make, save } from "./jobs.js";
import { showTraining, fillPair, pairMade } from "./training.js";

// One image of the gallery.
function tile(item) {
  const line = element("li", { className: item.favourite ? "favourite" : "" });
  line.dataset.id = item.id;
  const open = element("button", { className: "open", ariaLabel: "Open " + item.name, onclick: () => openEditor(item.id) }, pixels(item, state.run));
  const box = element("input", { type: "checkbox", ariaLabel: "Choose " + item.name, checked: state.chosen.has(item.id) });
  box.onchange = () => choose(item.id, box.checked);
  const star = element("button", { className: "star", textContent: item.favourite ? "★" : "☆", ariaLabel: "Favourite: " + item.name });
  star.setAttribute("aria-pressed", item.favourite);
  star.onclick = () => favour(item.id, !find(item.id).favourite);
  line.append(open, element("div", { className: "below" }, box, element("span", { textContent: item.name }), star));
  line.classList.toggle("picked", state.chosen.has(item.id));
  return line;
}

const line = (id) => $("images").querySelector(`[data-id="${id}"]`);

async function favour(id, on) {
  try {
    const item = await ask(`runs/${number(id)}/items/${id}/favourite`, { on });
    if (!find(id)) return; // another run was opened meanwhile
    Object.assign(find(id), item);
    const focused = document.activeElement?.className === "star" && line(id).contains(document.activeElement);
    line(id).replaceWith(tile(find(id)));
    if (focused) line(id).querySelector(".star").focus();
    refreshEditor(id);
  } catch (error) { say(error.message, true); }
}

function choose(id, on) {
  if (on) state.chosen.add(id); else state.chosen.delete(id);
  line(id).classList.toggle("picked", on);
  showChosen();
}

function showChosen() {
  const count = state.chosen.size;
  $("chosen").textContent = count ? `${count} chosen` : "None chosen";
  for (const name of ["download", "sheet", "none"]) $(name).disabled = !count;
  $("between").disabled = count !== 2;
}

const chosenIds = () => state.items.map((item) => item.id).filter((id) => state.chosen.has(id));

async function give(file, path) { // a file from the user's own disk; what it became, of the run that is chosen
  const run = await state.opening;
  const how = { method: "POST", headers: { "x-studio": "1" }, body: file };
  const answer = await fetch(`/api/runs/${run.number}/${path}/${encodeURIComponent(file.name)}`, how);
  const items = await answer.json();
  if (!answer.ok) throw new Error(items.message);
  return (await state.opening) === run ? items : []; // another run was opened meanwhile
}

async function take(file) { // an image to be edited
  try {
    const items = await give(file, "take");
    if (!items.length) return;
    state.items.unshift(...items);
    $("images").prepend(...items.map(tile));
    $("empty").hidden = true;
    openEditor(items[0].id);
  } catch (error) { say(error.message, true); }
}

// One condition image to choose; without an image: those of the data in turn.
function condition(image, chosen = false) {
  const box = element("input", { type: "radio", name: "condition", value: image?.id ?? "", checked: chosen });
  if (!image) return element("label", {}, box, "of the data, in turn");
  box.ariaLabel = image.name;
  const drawn = element("img", { src: conditionPicture(state.run.number, image.id), alt: "", title: image.name, loading: "lazy", className: "pixels" });
  drawn.style.setProperty("--rows", state.run.shape[1]);
  drawn.style.setProperty("--columns", state.run.shape[2]);
  return element("label", {}, box, drawn);
}

async function fillConditions(run) {
  const [place, choices] = [$("conditions"), $("conditions").querySelector(".choices")];
  place.hidden = !run.cond_image;
  choices.replaceChildren();
  if (!run.cond_image) return;
  choices.style.setProperty("--scale", Math.max(0.25, Math.min(8, 64 / Math.max(run.shape[1], run.shape[2]))));
  const { items, why } = await ask(`runs/${run.number}/conditions`);
  if (state.run !== run) return;
  const first = items.length ? [condition(null, true)] : [];
  choices.prepend(...first, ...items.map((image) => condition(image)));
  $("nowhere").hidden = !why;
  $("nowhere").textContent = why;
}

async function takeConditions(file) {
  try {
    const made = (await give(file, "conditions")).map((image, place) => condition(image, place === 0));
    $("conditions").querySelector(".choices").append(...made);
    say("");
  } catch (error) { say(error.message, true); }
}

function nextSeed(items) { // so that the next images are others
  const seeds = items.filter((item) => item.how.kind === "sample").map((item) => item.how.seed);
  if (seeds.length) $("make").elements.seed.value = Math.max(...seeds) + 1;
}

async function heard(event) {
  await state.asking;
  await state.opening;
  if (event.type === "items") pairMade(event);
  if (event.type === "error") say(event.message, true);
  else say(event.type === "done" ? `${event.done} images made.` : `${event.done} of ${event.of} images made.`);
  if (event.type === "done" || event.type === "error") $("stop").hidden = true;
  if (event.type !== "items" || event.run !== state.run?.number) return;
  const place = event.done - event.items.length; // the newest job comes first, its images in their order
  const before = $("images").children[place] ?? null;
  const fresh = event.items.filter((item) => !find(item.id)); // a list that was asked for meanwhile has them
  state.items.splice(place, 0, ...fresh);
  for (const item of fresh) $("images").insertBefore(tile(item), before);
  $("empty").hidden = true;
  nextSeed(event.items);
  if (!state.bar) showBar();
}

async function showBar() {
  const run = state.run;
  const bar = await ask(`runs/${run.number}/bar`).catch(() => null);
  if (state.run !== run) return;
  state.bar = bar;
  $("bar").hidden = !bar;
  if (!bar) return;
  $("bar").querySelector("i").style.background = `linear-gradient(to right, ${bar.colours.join(", ")})`;
  [$("low").textContent, $("title").textContent, $("high").textContent] = [bar.lowest, bar.title, bar.highest];
}

function fillForm(run) {
  const form = $("make");
  form.hidden = !run.sampled;
  $("why").hidden = run.sampled;
  $("why").textContent = run.why ?? "";
  form.querySelector("[data-classes]").hidden = !run.classes?.length;
  form.elements.classes.replaceChildren(new Option("all in turn", ""), ...(run.classes ?? []).map((name) => new Option(name, name)));
  form.querySelector("[data-guidance]").hidden = run.guidance == null;
  form.elements.guidance.value = "";
  form.elements.guidance.placeholder = run.guidance ?? "";
  form.querySelector("[data-columns]").replaceChildren(
    ...(run.columns ?? []).map((name) => element("label", {}, name + " ", element("input", { type: "text", name: "column:" + name, placeholder: "of the data" }))),
  );
}

// Open a run: all of the page is of the one before until all of it is of this one. What needs a run waits for the promise, which
// is of the run.
const showRun = (place) => (state.opening = openRun(place));

async function openRun(place) {
  const before = state.opening;
  try {
    const run = await ask("runs/" + place);
    const items = run.sampled ? await ask(`runs/${place}/items`) : [];
    await before; // of two that are opened at once the last one stays
    Object.assign(state, { run, items, chosen: new Set(), bar: null });
    $("editor").close();
    fillRun(run);
    say("");
  } catch (error) { say(error.message, true); }
  if (!$("training").hidden) showTraining(place, $("training").querySelector(".watch"));
  return state.run;
}

function fillRun(run) {
  $("about").textContent = `${run.path} (${run.recipe ?? "no recipe"}${run.sampled ? ", " + run.shape.join(" × ") : ""})`;
  fillForm(run);
  fillConditions(run).catch((error) => say(error.message, true));
  if (run.sampled) {
    const width = Math.max(run.shape[1], run.shape[2]);
    $("zoom").value = Math.max(1, Math.min(16, Math.round(112 / width)));
    zoomed();
    $("images").style.setProperty("--rows", run.shape[1]);
    $("images").style.setProperty("--columns", run.shape[2]);
  }
  $("images").replaceChildren(...state.items.map(tile));
  $("empty").hidden = state.items.length > 0 || !run.sampled;
  nextSeed(state.items);
  showChosen();
  if (state.items.length) showBar(); else $("bar").hidden = true;
}

const zoomed = () => $("images").style.setProperty("--scale", $("zoom").value);

function showView(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const here = tab.id === "tab-" + name;
    tab.setAttribute("aria-selected", here);
    tab.tabIndex = here ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !here;
  }
  if (name === "training") showTraining(Number($("run").value), $("training").querySelector(".watch"));
  if (name === "compare") fillPair(state.runs);
}

function listen() {
  const stream = new EventSource("/api/events");
  stream.onmessage = (message) => heard(JSON.parse(message.data));
}

function wire() {
  $("run").onchange = () => showRun(Number($("run").value));
  $("make").onsubmit = async (event) => {
    event.preventDefault();
    await state.opening;
    make({ kind: "sample", ...asked() });
  };
  $("own").onchange = () => {
    if ($("own").files.length) take($("own").files[0]);
    $("own").value = "";
  };
  $("condition").onchange = () => {
    if ($("condition").files.length) takeConditions($("condition").files[0]);
    $("condition").value = "";
  };
  $("stop").onclick = () => ask("stop/" + state.job, {});
  $("download").onclick = () => save(`runs/${state.run.number}/download?ids=${chosenIds()}`);
  $("sheet").onclick = () => save(`runs/${state.run.number}/sheet?ids=${chosenIds()}`);
  $("between").onclick = () => make({ ...asked(), kind: "between", count: 9, of: chosenIds() });
  $("none").onclick = () => {
    state.chosen.clear();
    for (const each of $("images").children) {
      each.classList.remove("picked");
      each.querySelector("input").checked = false;
    }
    showChosen();
  };
  $("star").onclick = () => favour(opened(), !find(opened()).favourite);
  $("starred").onchange = () => $("images").classList.toggle("starred", $("starred").checked);
  $("zoom").oninput = zoomed;
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, place) => {
    tab.onclick = () => showView(tab.id.slice(4));
    tab.onkeydown = (event) => {
      const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!turn) return;
      const next = tabs[(place + turn + tabs.length) % tabs.length];
      next.focus();
      next.click();
    };
  });
}

wire();
state.runs = await ask("runs");
$("run").replaceChildren(...state.runs.map((run) => new Option(run.name, run.number)));
listen();
await showRun(0);
document.body.dataset.ready = "yes";
