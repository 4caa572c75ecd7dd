// What all parts of the page share.
export const $ = (id) => document.getElementById(id);
export const state = { runs: [], run: null, opening: null, items: [], chosen: new Set(), asking: null, job: null };

export async function ask(path, body) {
  const how = body === undefined ? {} : { method: "POST", headers: { "x-studio": "1" }, body: JSON.stringify(body) };
  const answer = await fetch("/api/" + path, how);
  const text = await answer.text();
  let found = null;
  try { found = JSON.parse(text); } catch { found = { message: text }; }
  if (!answer.ok) throw new Error(found.message);
  return found;
}

export function say(words, bad = false) {
  for (const place of [$("status"), $("said")]) {
    place.textContent = words;
    place.classList.toggle("bad", bad);
  }
}

export const number = (id) => Number(id.split("-")[0]);
export const find = (id) => state.items.find((item) => item.id === id);
export const conditionPicture = (run, id) => `/api/runs/${run}/conditions/${id}.png`;
export const pictureOf = (item) => `/api/runs/${number(item.id)}/items/${item.id}.png`;

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function pixels(item, run) {
  const image = element("img", { src: pictureOf(item), alt: item.name, loading: "lazy", className: "pixels" + (run.transparent ? " glass" : "") });
  image.style.setProperty("--rows", run.shape[1]);
  image.style.setProperty("--columns", run.shape[2]);
  return image;
}
