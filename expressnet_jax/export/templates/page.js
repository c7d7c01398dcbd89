// A picture of a file or a camera -> the pixels that the network is given -> the probabilities of the classes.
import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";

const find = (id) => document.getElementById(id);
const [app, stage, hint, picture, video, file, camera] =
  ["app", "stage", "hint", "picture", "video", "file", "camera"].map(find);
const rows = [...find("classes").children];
const classes = rows.map((row) => row.querySelector(".class").textContent);
const frame = document.createElement("canvas"); // of the camera
const percent = (value) => `${(100 * value).toFixed(1)} %`;
let session, stream = null, newest = 0;

const say = (text, bad = false) => {
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
};

// A row of `from` pixels as one of `to`, bilinear, and an average where it shrinks: for each new pixel the first old one
// and the weights from there on, of sum 1 in units of 2 ** -22. To the bit what Pillow computes, since that made the
// pictures that the network was trained on.
const weights = (from, to) => {
  const scale = from / to, support = Math.max(scale, 1), inverse = 1 / support;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const parts = [];
    for (let x = first; x < last; x++) parts.push(Math.max(0, 1 - Math.abs((x - centre + 0.5) * inverse)));
    const sum = parts.reduce((a, b) => a + b, 0);
    return [first, parts.map((part) => Math.floor(0.5 + (part / sum) * 2 ** 22))];
  });
};

// RGB pixels, in rows that are `across` or columns that are not, brought from one length to another.
const resized = (pixels, rows, from, to, across) => {
  if (from === to) return pixels;
  const result = new Uint8Array(3 * rows * to);
  const [pixel, before, after] = across ? [3, 3 * from, 3 * to] : [3 * rows, 3, 3];
  weights(from, to).forEach(([first, parts], i) => {
    for (let row = 0; row < rows; row++) {
      for (let channel = 0; channel < 3; channel++) {
        let at = row * before + first * pixel + channel, sum = 2 ** 21;
        for (const part of parts) {
          sum += part * pixels[at];
          at += pixel;
        }
        result[row * after + i * pixel + channel] = sum >> 22;
      }
    }
  });
  return result;
};

// What a canvas shows, as the network was shown its training pictures: of their size, and in grey where they were.
const prepared = (canvas) => {
  const { width, height } = canvas;
  const rgba = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let rgb = new Uint8Array(3 * width * height);
  for (let i = 0; i < rgb.length; i++) rgb[i] = rgba[i + Math.trunc(i / 3)];
  const shrunk = Math.min(1, app.dataset.longest / Math.max(width, height));
  const [w, h] = [[app.dataset.width, width], [app.dataset.height, height]].map(
    ([stored, own]) => Number(stored) || Math.max(1, Math.round(own * shrunk)),
  );
  rgb = resized(resized(rgb, height, width, w, true), w, height, h, false);
  if (app.dataset.channels === "1") {
    for (let i = 0; i < rgb.length; i += 3) {
      rgb.fill((19595 * rgb[i] + 38470 * rgb[i + 1] + 7471 * rgb[i + 2] + 32768) >> 16, i, i + 3);
    }
  }
  return { rgb, w, h };
};

const drawn = (canvas, image, left, top, width, height) => {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(image, left, top, width, height, 0, 0, width, height);
};

const show = (probabilities, { rgb, w, h }, milliseconds) => {
  const best = probabilities.indexOf(Math.max(...probabilities));
  rows.forEach((row, i) => {
    row.dataset.value = probabilities[i];
    row.classList.toggle("first", i === best);
    row.querySelector(".track span").style.width = percent(probabilities[i]).replace(" ", "");
    row.querySelector(".percent").textContent = percent(probabilities[i]);
  });
  find("answer").textContent = `${classes[best]}, ${percent(probabilities[best])}`;
  find("time").textContent = `Answered in ${Math.round(milliseconds)} ms.`;
  const small = find("seen").querySelector("canvas");
  const image = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) image.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
  Object.assign(small, { width: w, height: h });
  small.getContext("2d").putImageData(image, 0, 0);
  find("seen").hidden = false;
};

// Answers what is on a canvas, unless something newer came before its turn.
const answer = async (canvas, number) => {
  const began = performance.now();
  const input = prepared(canvas);
  const images = new ort.Tensor("uint8", input.rgb, [1, input.h, input.w, 3]);
  const { probabilities } = await session.run({ images }, ["probabilities"]);
  if (number === newest) show([...probabilities.data], input, performance.now() - began);
};

const stop = () => {
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
  video.hidden = true;
  hint.hidden = !picture.hidden;
  stage.classList.toggle("full", !picture.hidden);
  camera.textContent = "Use the camera";
  camera.setAttribute("aria-pressed", "false");
  find("answer").setAttribute("aria-live", "polite");
};

const open = async (chosen) => {
  const number = ++newest;
  stop();
  say(`Answering ${chosen.name}.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(chosen, { colorSpaceConversion: "none" });
  } catch {
    return say(`${chosen.name} is no picture that this browser can read.`, true);
  }
  try {
    drawn(picture, bitmap, 0, 0, bitmap.width, bitmap.height);
    picture.hidden = false;
    stop();
    await new Promise((done) => setTimeout(done)); // the browser shows the picture first
    await answer(picture, number);
    if (number === newest) say(`${chosen.name}, ${bitmap.width} x ${bitmap.height} pixels.`);
  } catch (error) {
    say(`${chosen.name} could not be answered: ${error.message || error}`, true);
  }
};

const watch = async () => {
  const number = ++newest;
  if (!navigator.mediaDevices) {
    return say("A browser gives a page its camera only from https:// or http://localhost.", true);
  }
  let opened;
  try {
    opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  } catch (error) {
    return say(`No camera: ${error.message}`, true);
  }
  if (number !== newest) return opened.getTracks().forEach((track) => track.stop()); // it took too long
  stop();
  stream = video.srcObject = opened;
  opened.getVideoTracks()[0].addEventListener("ended", stop);
  picture.hidden = hint.hidden = true;
  video.hidden = false;
  stage.classList.add("full");
  camera.textContent = "Stop the camera";
  camera.setAttribute("aria-pressed", "true");
  find("answer").setAttribute("aria-live", "off"); // it changes all the time
  say("Fill the frame with your face.");
  try {
    await video.play();
    while (stream === opened && number === newest) {
      const began = performance.now();
      const side = Math.min(video.videoWidth, video.videoHeight);
      drawn(frame, video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side);
      await answer(frame, number);
      // As long as the answer took: a large network leaves the page half of the time.
      await new Promise((done) => setTimeout(done, Math.max(50, performance.now() - began)));
    }
  } catch (error) {
    if (stream === opened) say(`The camera could not be answered: ${error.message || error}`, true);
  }
};

// Protection against fingerprinting changes what is read from a canvas, and so would change answers.
const reads = () => {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const known = new ImageData(16, 16);
  known.data.forEach((_, i) => (known.data[i] = i % 4 === 3 ? 255 : (37 * i) % 256));
  context.putImageData(known, 0, 0);
  const found = context.getImageData(0, 0, 16, 16).data;
  return known.data.every((value, i) => value === found[i]);
};

file.addEventListener("change", () => {
  if (file.files.length) open(file.files[0]);
  file.value = ""; // the same file may be chosen again
});
camera.addEventListener("click", () => {
  if (!stream) return watch();
  newest++;
  stop();
  say("The camera is off.");
});
for (const [event, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(event, (dropped) => {
    dropped.preventDefault(); // or the browser leaves the page for the picture
    stage.classList.toggle("over", over);
    const [chosen] = event === "drop" && session ? dropped.dataTransfer.files : [];
    if (chosen) open(chosen);
  });
}

ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
try {
  if (!reads()) throw new Error("this browser changes the pixels of pictures, a protection that can be lifted for a page");
  session = await ort.InferenceSession.create("model.onnx");
  file.disabled = camera.disabled = false;
  say("Ready.");
} catch (error) {
  say(`The network cannot run here: ${error.message || error}`, true);
}
