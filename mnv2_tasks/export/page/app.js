// The exported ONNX model in the browser: a picture or the camera in, labels, boxes and masks out.
import * as ort from "./ort.wasm.min.mjs";

// Okabe and Ito's colours; further classes step around the hues.
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const colour = (i) => COLOURS[i] ?? `hsl(${(36 + i * 205.1) % 360} 80% ${[45, 80, 60, 30][i % 4]}%)`;
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), pen = canvas.getContext("2d"), status = $("status");

ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

const about = await (await fetch("model.json")).json();
const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
const [height, width] = about.size;
const small = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
$("about").textContent = `${Object.keys(about.tasks).join(", ")} at ${width} x ${height}: ` +
  Object.values(about.classes).map((names) => names.length > 12 ? `${names.length} classes` : names.join(", ")).join("; ");

let shown = null, result = null, stream = null;

/** An image of any kind -> the model's input: RGB bytes or floats, in its layout. */
function input(source) {
  small.clearRect(0, 0, width, height);
  small.imageSmoothingQuality = "high";
  let w = width, h = height, x = 0, y = 0;
  if (about.fit !== "stretch") {
    const [across, down] = [width / source.width, height / source.height];
    const scale = about.fit === "pad" ? Math.min(across, down) : Math.max(across, down) * 8 / 7;
    [w, h] = [Math.max(1, Math.round(source.width * scale)), Math.max(1, Math.round(source.height * scale))];
    if (about.fit === "crop") [x, y] = [Math.round((width - w) / 2), Math.round((height - h) / 2)];
    small.fillStyle = "rgb(127 127 127)";
    small.fillRect(0, 0, width, height);
  }
  small.drawImage(source, x, y, w, h);
  const pixels = small.getImageData(0, 0, width, height).data, count = width * height;
  const grey = about.preprocessing.channels === "grey", channels = grey ? 1 : 3;
  const floats = about.input.dtype === "float32";
  const values = new (floats ? Float32Array : Uint8Array)(channels * count);
  const first = about.input.layout === "nchw";
  for (let i = 0; i < count; i++) {
    const [r, g, b] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
    const all = grey ? [Math.round(0.2989 * r + 0.587 * g + 0.114 * b)] : [r, g, b];
    for (let c = 0; c < channels; c++) values[first ? c * count + i : i * channels + c] = floats ? all[c] / 255 : all[c];
  }
  const shape = first ? [1, channels, height, width] : [1, height, width, channels];
  return { tensor: new ort.Tensor(floats ? "float32" : "uint8", values, shape), seen: [h, w] };
}

/** The threshold that was fitted to a class, if there is one. */
const fitted = (task, label) => about.calibration?.[task]?.thresholds?.[label];
let moved = false; // the slider goes before what was fitted, once somebody has moved it
if (Object.values(about.calibration ?? {}).some(({ thresholds }) => thresholds)) $("least").textContent = "as fitted, by class";

/** Run the model on an image; what it found is kept for drawing, in pixels of the image. */
async function look(source) {
  const { tensor, seen } = input(source);
  const began = performance.now();
  const out = await session.run({ images: tensor });
  const took = performance.now() - began;
  const found = { took, boxes: [], masks: [], labels: [] };
  for (const [task, kind] of Object.entries(about.tasks)) {
    const names = about.classes[task];
    if (kind === "detection") {
      const boxes = out[`${task}_boxes`].data, scores = out[`${task}_scores`].data, labels = out[`${task}_labels`].data;
      const [sx, sy] = [source.width / seen[1], source.height / seen[0]];
      for (let i = 0; i < scores.length && scores[i] > 0; i++) {
        const [x, y, right, low] = boxes.slice(4 * i, 4 * i + 4);
        found.boxes.push({ box: [x * sx, y * sy, right * sx, low * sy], score: scores[i], label: Number(labels[i]), name: names[labels[i]], own: fitted(task, labels[i]) });
      }
    } else if (kind === "segmentation") {
      if (out[`${task}_mask`]) found.masks.push({ mask: out[`${task}_mask`].data, seen, names });
    } else {
      const rows = [...out[`${task}_scores`].data].map((score, label) => ({ score, label, name: names[label] }));
      const there = rows.filter(({ score, label }) => !(score < fitted(task, label)));
      found.labels.push(...there.sort((a, b) => b.score - a.score).slice(0, 5));
    }
  }
  return found;
}

function draw() {
  if (!shown) return;
  const least = Number($("threshold").value), lines = [];
  const zoom = Math.max(1, Math.round(480 / Math.max(shown.width, shown.height))); // so that words on small pictures can be read
  const [w, h] = [shown.width * zoom, shown.height * zoom];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  pen.drawImage(shown, 0, 0, w, h);
  for (const { mask, seen, names } of result.masks) {
    const shift = names[0]?.toLowerCase() === "background" ? 1 : 0, counts = new Map();
    const layer = new OffscreenCanvas(width, height), brush = layer.getContext("2d"), image = brush.createImageData(width, height);
    const table = names.map((_, i) => { brush.fillStyle = colour(i - shift); brush.fillRect(0, 0, 1, 1); return brush.getImageData(0, 0, 1, 1).data; });
    for (let i = 0; i < mask.length; i++) {
      const label = mask[i];
      if (i % width >= seen[1] || i / width >= seen[0]) continue; // beside the picture
      counts.set(label, (counts.get(label) ?? 0) + 1);
      if (label < shift || !table[label]) continue;
      image.data.set([table[label][0], table[label][1], table[label][2], 150], 4 * i);
    }
    brush.putImageData(image, 0, 0);
    pen.drawImage(layer, 0, 0, seen[1], seen[0], 0, 0, canvas.width, canvas.height);
    for (const [label, count] of [...counts].sort((a, b) => b[1] - a[1])) {
      if (label >= shift) lines.push([colour(label - shift), `${names[label]}: ${(100 * count / (seen[0] * seen[1])).toFixed(1)}% of the picture`]);
    }
  }
  pen.lineWidth = Math.max(2, canvas.width / 250);
  pen.font = `${Math.max(12, canvas.width / 36)}px system-ui`;
  pen.textBaseline = "top";
  for (const { box, score, label, name, own } of [...result.boxes].reverse()) {
    if (score < (moved ? least : own ?? least)) continue;
    const [x, y, right, low] = box.map((side) => side * zoom);
    const text = `${name} ${score.toFixed(2)}`, size = Math.max(12, canvas.width / 36);
    pen.strokeStyle = pen.fillStyle = colour(label);
    pen.strokeRect(x, y, right - x, low - y);
    const top = Math.max(0, y - size * 1.25);
    pen.fillRect(x, top, pen.measureText(text).width + 6, size * 1.25);
    pen.fillStyle = "#000";
    pen.fillText(text, x + 3, top + 1);
    lines.unshift([colour(label), text]);
  }
  for (const { score, label, name } of result.labels) lines.push([colour(label), `${name} ${score.toFixed(3)}`]);
  $("found").replaceChildren(...lines.slice(0, 30).map(([tint, text]) => {
    const line = document.createElement("li"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = tint;
    line.append(swatch, text);
    return line;
  }));
  status.textContent = `${result.took.toFixed(1)} ms`;
  $("hint").hidden = true;
}

async function show(source) {
  result = await look(source);
  shown = source;
  draw();
  document.body.dataset.result = JSON.stringify({ boxes: result.boxes, labels: result.labels, took: result.took });
}

async function open(file) {
  stop();
  try {
    const bitmap = await createImageBitmap(file);
    const side = Math.min(1, 1280 / Math.max(bitmap.width, bitmap.height));
    await show(side < 1 ? await createImageBitmap(bitmap, { resizeWidth: Math.round(bitmap.width * side), resizeQuality: "high" }) : bitmap);
  } catch (error) {
    status.textContent = `${file.name ?? "That"} is no picture that this browser can read.`;
  }
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("camera").textContent = "Use the camera";
  $("camera").setAttribute("aria-pressed", "false");
}

async function camera() {
  if (stream) return stop();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: 640 } });
  } catch (error) {
    status.textContent = `No camera: ${error.message}`;
    return;
  }
  $("camera").textContent = "Stop the camera";
  $("camera").setAttribute("aria-pressed", "true");
  const video = $("video");
  video.srcObject = stream;
  await video.play();
  while (stream) {
    if (video.videoWidth) await show(await createImageBitmap(video));
    await new Promise(requestAnimationFrame);
  }
}

$("file").addEventListener("change", (event) => event.target.files[0] && open(event.target.files[0]));
$("camera").addEventListener("click", camera);
$("threshold").addEventListener("input", (event) => { moved = true; $("least").textContent = Number(event.target.value).toFixed(2); draw(); });
for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => event.clipboardData.files[0] && open(event.clipboardData.files[0]));

// ?picture=<address> shows that picture at once, ?camera starts the camera.
const asked = new URLSearchParams(location.search);
if (asked.has("picture")) await open(await (await fetch(asked.get("picture"))).blob());
if (asked.has("camera")) camera();
document.body.dataset.ready = "yes";
