// Makes images in the browser. runtime.js is onnxruntime-web; data.js holds `files` (base64) and `walk`.
// The noisy image of every estimate, and the image at the end, is a weighted sum of normal noises and of the estimates before.
"use strict";

const element = (id) => document.getElementById(id);
const say = (text) => { element("state").textContent = text; };
const bytes = (name) => Uint8Array.from(atob(files[name]), (letter) => letter.charCodeAt(0));
const values = walk.shape.reduce((all, side) => all * side, 1);

async function load() {
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  ort.env.wasm.wasmBinary = bytes("runtime.wasm").buffer;
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([bytes("runtime.mjs")], { type: "text/javascript" })) };
  const open = (name) => ort.InferenceSession.create(bytes(name), { executionProviders: ["wasm"] });
  return { denoiser: await open("denoiser.onnx"), decode: await open("decode.onnx") };
}

// Uniform numbers in (0, 1): mulberry32, a public-domain generator of 32 bits of state.
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
}

function noise(draw) {
  const made = new Float32Array(values);
  for (let at = 0; at < values; at += 2) {
    const radius = Math.sqrt(-2 * Math.log(draw())), angle = 2 * Math.PI * draw();
    made[at] = radius * Math.cos(angle);
    if (at + 1 < values) made[at + 1] = radius * Math.sin(angle);
  }
  return made;
}

function weighted(row, known) {
  const total = new Float64Array(values);
  row.forEach((weight, number) => {
    if (weight) known[number].forEach((value, at) => { total[at] += weight * value; });
  });
  return Float32Array.from(total);
}

const tensor = (data) => new ort.Tensor("float32", data, [1, ...walk.shape]);

// What the columns that the run was trained with stand for: numbers standardised, words as indicators. `entries` by column.
function vector(entries) {
  return walk.conditions.columns.flatMap((column) => {
    const entry = String(entries[column.name]).trim();
    if (column.kind === "number") {
      if (entry === "" || !Number.isFinite(Number(entry))) throw new Error(`${column.name} takes a number`);
      return [(Number(entry) - column.mean) / column.std];
    }
    const words = column.kind === "tags" ? entry.split("|").filter((word) => word) : [entry];
    const strange = words.find((word) => !column.words.includes(word));
    if (strange !== undefined) throw new Error(`${column.name} takes ${column.words.join(", ")}`);
    return column.words.map((word) => (words.includes(word) ? 1 : 0));
  });
}

async function estimate(networks, noisy, sigma, { label, numbers, drop = false }) {
  const given = { noisy: tensor(noisy), sigma: new ort.Tensor("float32", [sigma], []) };
  if (walk.classes.length) given.label = new ort.Tensor("int64", [BigInt(drop ? walk.classes.length : label)], [1]);
  if (numbers.length) {
    given.numbers = new ort.Tensor("float32", Float32Array.from(numbers), [1, numbers.length]);
    given.drop = new ort.Tensor("bool", [drop], [1]);
  }
  return (await networks.denoiser.run(given)).estimate.data;
}

// The native values [channel, row, column] of one image.
async function image(networks, noises, label, entries = {}) {
  const condition = { label, numbers: vector(entries) }, conditional = walk.classes.length || condition.numbers.length;
  const known = [...noises], rows = walk.rows.slice(0, -1);
  for (const [step, row] of rows.entries()) {
    const noisy = weighted(row, known), scale = walk.guidance[step];
    let found = await estimate(networks, noisy, walk.sigmas[step], condition);
    if (conditional && scale !== 1) {
      const none = await estimate(networks, noisy, walk.sigmas[step], { ...condition, drop: true });
      found = found.map((value, at) => none[at] + scale * (value - none[at]));
    }
    known.push(found);
  }
  const last = weighted(walk.rows[walk.rows.length - 1], known);
  return (await networks.decode.run({ images: tensor(last) })).image.data;
}

// Red, green, blue and alpha of every pixel; colours that alpha was multiplied into are divided by it.
function pixels(native) {
  const [channels, rows, columns] = walk.shape, plane = rows * columns;
  const seen = new Uint8ClampedArray(4 * plane);
  for (let at = 0; at < plane; at++) {
    const alpha = channels === 4 ? native[3 * plane + at] : 255;
    for (let colour = 0; colour < 3; colour++) {
      const value = native[(channels === 1 ? 0 : colour) * plane + at];
      seen[4 * at + colour] = walk.alpha === "premultiplied" && alpha ? (value * 255) / alpha : value;
    }
    seen[4 * at + 3] = alpha;
  }
  return new ImageData(seen, columns, rows);
}

async function show(native, words) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = walk.shape.slice(1);
  canvas.getContext("2d").putImageData(pixels(native), 0, 0);
  const url = URL.createObjectURL(await new Promise((done) => canvas.toBlob(done, "image/png")));
  const picture = new Image(), link = document.createElement("a"), item = document.createElement("li");
  [picture.src, picture.alt] = [url, words];
  [link.href, link.download] = [url, `${words.replaceAll(" ", "-")}.png`];
  link.append(picture);
  item.append(link, Object.assign(document.createElement("span"), { textContent: words }));
  element("images").append(item);
}

async function make(networks) {
  const count = Number(element("count").value), seed = Number(element("seed").value), began = performance.now();
  const chosen = element("class").value, fields = [...element("columns").querySelectorAll("input")];
  const entries = Object.fromEntries(fields.map((field) => [field.name, field.value]));
  vector(entries); // says what is wrong before the first image
  element("make").disabled = true;
  for (const old of element("images").querySelectorAll("img")) URL.revokeObjectURL(old.src);
  element("images").replaceChildren();
  for (let number = 0; number < count; number++) {
    const label = chosen === "" ? (seed + number) % Math.max(1, walk.classes.length) : Number(chosen);
    const draw = uniform(seed + number), noises = Array.from({ length: walk.noises }, () => noise(draw));
    const name = walk.classes.length ? ` ${walk.classes[label] ?? "no class"}` : "";
    await show(await image(networks, noises, label, entries), `seed ${seed + number}${name}`);
    say(`${number + 1} of ${count} images, ${((performance.now() - began) / (number + 1)).toFixed(0)} ms each.`);
    await new Promise((done) => setTimeout(done)); // lets the page draw
  }
  element("make").disabled = false;
}

async function main() {
  element("name").textContent = document.title = walk.name;
  const evaluations = walk.sigmas.length, [channels, rows, columns] = walk.shape;
  element("about").textContent = `Images of ${columns} x ${rows} pixels, ${channels} channels, each in ${evaluations} ` +
    `evaluation${evaluations > 1 ? "s" : ""} of a network that runs in this page. Nothing leaves this computer.`;
  element("which").hidden = !walk.classes.length;
  const choices = [["", "all in turn"], ...walk.classes.map((name, number) => [number, name]), [walk.classes.length, "no class"]];
  for (const [value, text] of choices) element("class").add(new Option(text, value));
  for (const column of walk.conditions.columns) {
    const field = Object.assign(document.createElement("input"), { name: column.name, required: column.kind !== "tags" });
    field.value = column.kind === "number" ? Number(column.mean.toPrecision(4)) : column.words[0];
    const label = document.createElement("label");
    label.append(column.name, field);
    element("columns").append(label);
  }
  const networks = await load();
  element("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    make(networks).catch((error) => {
      say(`This failed: ${error.message}.`);
      element("make").disabled = false;
    });
  });
  element("make").disabled = false;
  say("Ready.");
  window.pixelpath = { image: (noises, label, entries) => image(networks, noises, label, entries) };
}

main().catch((error) => say(`The networks could not be loaded: ${error.message}`));
