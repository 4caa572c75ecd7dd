// The dialog of one image: zoom, values under the pointer, more like it, and a painted part made anew.
import { $, ask, conditionPicture, element, find, number, pictureOf, say, state } from "./common.js";
import { asked, make, save } from "./jobs.js";

const here = { id: null, mask: null, values: null, at: null, cursor: null, painting: false }; // at: the pixel last pointed at
const sides = () => state.run.shape.slice(1);
const inData = (row) => (state.run.south_up ? sides()[0] - 1 - row : row); // the row in the data of one in the picture, and back

export const opened = () => here.id;

export async function openEditor(id) {
  Object.assign(here, { id, values: null, at: null, cursor: null, mask: new Uint8Array(sides()[0] * sides()[1]) });
  const item = find(id), [rows, columns] = sides();
  $("name").textContent = item.name;
  $("large").src = pictureOf(item);
  $("large").alt = item.name;
  $("large").className = "pixels" + (state.run.transparent ? " glass" : "");
  $("stage").style.setProperty("--rows", rows);
  $("stage").style.setProperty("--columns", columns);
  Object.assign($("paint"), { width: columns, height: rows });
  $("cursor").hidden = true;
  $("value").textContent = "Point at a pixel for its value.";
  showAsked(item);
  if (!$("editor").open) {
    const room = Math.min(innerWidth < 768 ? innerWidth - 48 : Math.min(innerWidth * 0.96, 1152) - 370, innerHeight * 0.6);
    $("larger").value = Math.max(1, Math.min(64, Math.floor(room / Math.max(rows, columns))));
    $("editor").showModal();
  }
  zoomed();
  refreshEditor(id);
  drawMask();
  say("");
  const values = await ask(`runs/${number(id)}/items/${id}/values`).catch(() => null);
  if (id !== here.id) return; // another image was opened meanwhile
  here.values = values;
  if (here.at) tell(...here.at);
}

function showAsked({ how, id }) { // the numbers and the condition image that it was made with
  const words = Object.entries(how.numbers ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
  $("asked").hidden = !words && !how.cond_image;
  $("asked").replaceChildren("Made with " + words + (words && how.cond_image ? " and " : ""));
  if (!how.cond_image) return;
  const drawn = element("img", { src: conditionPicture(number(id), how.cond_image), alt: "the condition image", className: "pixels" });
  drawn.style.setProperty("--rows", sides()[0]);
  drawn.style.setProperty("--columns", sides()[1]);
  $("asked").append(drawn);
}

export function refreshEditor(id) {
  if (id !== here.id) return;
  const item = find(id);
  $("star").setAttribute("aria-pressed", item.favourite);
  $("star").textContent = item.favourite ? "★ Favourite" : "☆ Favourite";
  const place = state.items.indexOf(item);
  $("before").disabled = place === 0;
  $("after").disabled = place === state.items.length - 1;
}

const zoomed = () => $("stage").style.setProperty("--scale", $("larger").value);

function drawMask() {
  const [rows, columns] = sides(), pen = $("paint").getContext("2d"), image = pen.createImageData(columns, rows);
  here.mask.forEach((on, place) => on && image.data.set([255, 0, 128, 255], 4 * place));
  pen.putImageData(image, 0, 0);
  $("inpaint").disabled = !here.mask.includes(1);
}

function dab(row, column) { // a round brush about a pixel
  const [rows, columns] = sides(), size = Number($("brush").value), reach = size / 2, even = size % 2 ? 0 : 0.5;
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (Math.hypot(y - row - even, x - column - even) < Math.max(reach, 0.6)) here.mask[y * columns + x] = $("erase").checked ? 0 : 1;
    }
  }
  drawMask();
}

function tell(drawn, column) { // a pixel of the picture: at once, or when the values arrive
  here.at = [drawn, column];
  const shown = here.values, row = inData(drawn);
  if (!shown) return;
  const [channels, rows, columns] = shown.shape;
  const words = shown.names.map((name, channel) => {
    const value = shown.values[channel * rows * columns + row * columns + column];
    return `${name} ${value ?? "not measured"} ${shown.units[channel]}`.trim();
  });
  $("value").textContent = `row ${row}, column ${column}: ${words.slice(0, channels).join(", ")}`;
}

function pixelAt(event) {
  const box = $("stage").getBoundingClientRect(), [rows, columns] = sides();
  const row = Math.floor(((event.clientY - box.top) / box.height) * rows), column = Math.floor(((event.clientX - box.left) / box.width) * columns);
  return [Math.max(0, Math.min(rows - 1, row)), Math.max(0, Math.min(columns - 1, column))];
}

function moveCursor(key) {
  const [rows, columns] = sides(), turn = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  const [row, column] = here.cursor ?? [Math.floor(rows / 2), Math.floor(columns / 2)];
  here.cursor = here.cursor ? [Math.max(0, Math.min(rows - 1, row + turn[0])), Math.max(0, Math.min(columns - 1, column + turn[1]))] : [row, column];
  const scale = Number($("larger").value);
  Object.assign($("cursor").style, { top: here.cursor[0] * scale + "px", left: here.cursor[1] * scale + "px" });
  $("cursor").hidden = false;
  $("cursor").scrollIntoView({ block: "nearest", inline: "nearest" });
  tell(...here.cursor);
}

function step(turn) {
  const place = state.items.findIndex((item) => item.id === here.id) + turn;
  if (state.items[place]) openEditor(state.items[place].id);
}

function dataMask() { // the mask in the order of the data
  const columns = sides()[1];
  return here.mask.map((_, place) => here.mask[inData(Math.floor(place / columns)) * columns + (place % columns)]);
}

const edit = (job) => {
  const form = asked(), classes = find(here.id).how.class == null ? form.classes : []; // else that of the image
  make({ ...form, classes, of: [here.id], ...job });
};

$("close").onclick = () => $("editor").close();
$("before").onclick = () => step(-1);
$("after").onclick = () => step(1);
$("one").onclick = () => save(`runs/${number(here.id)}/download?ids=${here.id}`);
$("larger").oninput = zoomed;
$("strength").oninput = () => ($("strong").textContent = $("strength").value);
$("vary").onclick = () => edit({ kind: "vary", count: $("alike").value, strength: $("strength").value });
$("inpaint").onclick = () => edit({ kind: "inpaint", count: $("parts").value, mask: dataMask().join("") });
$("clear").onclick = () => { here.mask.fill(0); drawMask(); };
$("invert").onclick = () => { here.mask = here.mask.map((on) => 1 - on); drawMask(); };
$("stage").onpointerdown = (event) => {
  $("stage").setPointerCapture(event.pointerId);
  here.painting = true;
  dab(...pixelAt(event));
};
$("stage").onpointermove = (event) => {
  tell(...pixelAt(event));
  if (here.painting) dab(...pixelAt(event));
};
$("stage").onpointerup = $("stage").onpointercancel = () => (here.painting = false);
$("view").onkeydown = (event) => {
  if (event.key.startsWith("Arrow")) moveCursor(event.key);
  else if (event.key === " " && here.cursor) dab(...here.cursor);
  else return;
  event.preventDefault();
};
