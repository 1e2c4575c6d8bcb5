// The page: it shows frames and masks, and asks the session (session.js, in a worker) for all the rest. Lists and clicks:
// drawing.js, a script before this one.

import {png, zip} from './files.js';
import {fromFilm, fromPictures, pixelsOf} from './frames.js';
import {labelMap, paint} from './pixels.js';

const $ = id => document.getElementById(id);
const worker = new Worker(new URL('./worker.js', import.meta.url), {type: 'module'}), waiting = new Map();
let settings, low, video = null, state = null, time = 0, chosen = 1, busy = false, wished = false;

// ---- asking the session

worker.onmessage = ({data: {id, value, error, progress}}) => {
  if (progress) return void ($('device').textContent = progress);
  const {resolve, reject} = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(value); else reject(new Error(error));
};
worker.onerror = event => say('load', `The model's thread failed: ${event.message || 'its files cannot be loaded'}.`);

function ask(verb, ...args) {
  return new Promise((resolve, reject) => {
    const id = crypto.getRandomValues(new Uint32Array(1))[0];
    waiting.set(id, {resolve, reject});
    worker.postMessage({id, verb, args});
  });
}

function say(place, sentence) { $(`${place}-error`).textContent = sentence || ''; }

// One thing at a time; what goes wrong is said where it belongs, and the page goes on.
async function doing(place, work) {
  if (busy) return;
  say(place);
  busy = true;
  enable();
  try {
    await work();
  } catch (error) {
    say(place, error.message);
  }
  busy = wished = false;
  if (video) await show(time);
  enable();
}

// ---- showing

async function show(t) {
  time = t;
  $('time').value = $('number').textContent = t;
  state = await ask('state');
  const {answers, prompts} = await ask('at', t), {width, height} = video, rgba = await pixelsOf(video, t);
  paint(rgba, labelMap(answers, low, width, height), width, height, settings.colours);
  const context = $('frame').getContext('2d');
  context.putImageData(new ImageData(rgba, width, height), 0, 0);
  for (const {points, labels, box} of prompts) drawPrompts(context, points, labels, box, Math.max(3, width / 120));
  showObjects();
}

function drawPrompts(context, points, labels, box, radius) {
  context.lineWidth = radius / 2;
  context.strokeStyle = '#fff';
  if (box) context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  points.forEach(([x, y], i) => {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = labels[i] ? '#28c83c' : '#dc3228';
    context.fill();
    context.stroke();
  });
}

function showObjects() {
  const numbers = state.numbers.includes(chosen) ? state.numbers : [...state.numbers, chosen];
  $('objects').replaceChildren(...numbers.map(number => row(number, state.numbers.includes(number))));
}

function row(number, known) {
  return objectRow({
    number, known, chosen: number === chosen, colour: settings.colours[(number - 1) % settings.colours.length], disabled: false,
    choose: () => { chosen = number; showObjects(); }, remove: () => doing('object', () => ask('remove', number)),
  });
}

function enable() {
  const any = state?.numbers.length > 0, idle = video && !busy;
  $('file').disabled = $('example').disabled = busy || !settings;
  $('time').disabled = $('new').disabled = !idle;
  $('undo').disabled = !idle || !state.canUndo;
  $('track').disabled = $('reset').disabled = $('masks').disabled = !(idle && any);
  $('play').disabled = !(idle && state.answered.length > 1);
  $('stop').disabled = !wished;
}

// ---- videos

async function open(loading) {
  $('progress').textContent = '';
  const next = await loading;
  await ask('open');
  video = next;
  chosen = 1;
  time = 0;
  Object.assign($('frame'), {width: video.width, height: video.height});
  $('time').max = video.count - 1;
  $('picture').hidden = false;
  $('title').textContent = `${video.name}: ${video.count} frames, ${video.width} x ${video.height}`;
}

$('example').onclick = () => doing('open', () => {
  const {files, name, rate} = settings.example;
  return open(fromPictures(files.map(file => () => fetch(file).then(answer => answer.blob())), name, rate));
});
$('file').onchange = () => doing('open', () => {
  const files = [...$('file').files].sort((a, b) => a.name.localeCompare(b.name, 'en', {numeric: true}));
  $('file').value = '';
  const rate = Number($('rate').value);
  if (!(rate >= 1 && rate <= 120)) throw new Error('Frames per second must be a number from 1 to 120.');
  if (files.every(file => file.type.startsWith('image/'))) return open(fromPictures(files, files[0].name, rate));
  if (files.length > 1) throw new Error('Choose one video, or pictures only.');
  return open(fromFilm(files[0], rate));
});
$('time').oninput = () => doing('open', () => { time = Number($('time').value); });

// ---- clicks and boxes

watchPicture(() => video, () => busy, given => doing('object', async () => ask('prompt', chosen, time, await image(time), given)));

async function image(t) { return {rgba: await pixelsOf(video, t), width: video.width, height: video.height}; }

$('new').onclick = () => { chosen = Math.max(0, ...state.numbers) + 1; showObjects(); };
$('undo').onclick = () => doing('object', () => ask('undo'));
$('reset').onclick = () => doing('object', () => ask('reset'));

// ---- tracking, playing, saving

$('track').onclick = () => doing('track', async () => {
  wished = true;
  enable();
  await ask('begin');
  const began = performance.now(), {first} = state;
  for (let t = first; t < video.count && wished; t++) {
    await ask('track', t, await image(t));
    const done = t - first + 1, rate = 1000 * done / (performance.now() - began);
    $('progress').textContent = `${done} of ${video.count - first} frames, ${rate.toFixed(1)} frames per second`;
    await show(t);
  }
});
$('play').onclick = () => doing('track', async () => {
  wished = true;
  enable();
  const {answered} = state, first = answered.includes(time) && time !== answered.at(-1) ? time : answered[0];
  for (const t of answered.filter(t => t >= first)) {
    if (!wished) break;
    const shown = new Promise(resolve => setTimeout(resolve, 1000 / video.rate));
    await show(t);
    await shown;
  }
});
$('stop').onclick = () => { wished = false; };
$('masks').onclick = () => doing('save', async () => {
  const files = [], {width, height} = video;
  for (const t of state.answered) {
    const labels = labelMap((await ask('at', t)).answers, low, width, height);
    files.push({name: `${String(t).padStart(5, '0')}.png`, bytes: await png(labels, width, height, settings.palette)});
  }
  const link = Object.assign(document.createElement('a'), {
    href: URL.createObjectURL(zip(files)), download: `${video.name.replace(/\.\w+$/, '')}_masks.zip`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});

// ---- the beginning

async function fetchJson(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is not there (${answer.status}); copy the whole folder to the server.`);
  return answer.json();
}

try {
  const [manifest, page] = await Promise.all([fetchJson('manifest.json'), fetchJson('page.json')]);
  const {device, notes} = await ask('load', manifest, new URLSearchParams(location.search).get('device'));
  low = manifest.loop.size / 4;
  $('device').textContent = `${page.model}, ${manifest.loop.size} pixels, on ${device}.`;
  $('notes').textContent = [page.note, ...notes].filter(Boolean).join(' ');
  settings = page;
} catch (error) {
  $('device').textContent = '';
  say('load', `The model cannot be loaded: ${error.message}`);
}
enable();
