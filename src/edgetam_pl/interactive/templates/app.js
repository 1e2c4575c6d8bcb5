const $ = id => document.getElementById(id);
let visit = location.hash.slice(1), state = null, time = 0, chosen = 1, version = 0, start = null;

// ---- asking the server

function say(place, sentence) { $(place + '-error').textContent = sentence || ''; }

async function ask(place, path, body) {  // the answer; or null, and the sentence stands where it belongs
  say(place);
  try {
    const answer = await fetch(path, body === undefined ? {} : {method: 'POST', body});
    const values = await answer.json();
    if (answer.ok) return values;
    say(place, values.error);
  } catch (error) {
    say(place, 'The server does not answer; is edgetam app still running?');
  }
  return null;
}

async function change(place, what, values = {}) {
  const answer = await ask(place, `visit/${visit}/${what}`, JSON.stringify(values));
  if (answer) { state = answer; show(time); }
  return answer;
}

// ---- showing what it says

function show(t) {
  time = t;
  $('title').textContent = `${state.name}: ${state.frames} frames, ${state.width} x ${state.height}`;
  $('picture').hidden = false;
  $('frame').src = `visit/${visit}/frame/${t}?${++version}`;
  $('number').textContent = $('time').value = t;
  const busy = state.tracking, empty = !state.objects.length;
  $('time').disabled = busy;
  $('new').disabled = $('undo').disabled = busy;
  $('track').disabled = $('reset').disabled = busy || empty;
  $('stop').disabled = !busy;
  $('links').classList.toggle('ready', !busy && !empty);
  const numbers = state.objects.map(one => one.number);
  const list = numbers.includes(chosen) ? state.objects : [...state.objects, {number: chosen}];
  $('objects').replaceChildren(...list.map(one => row(one.number, numbers.includes(one.number))));
}

function row(number, known) {
  const item = document.createElement('li'), label = document.createElement('label'), key = document.createElement('i');
  const radio = Object.assign(document.createElement('input'), {type: 'radio', name: 'object', checked: number === chosen});
  radio.onchange = () => { chosen = number; show(time); };
  key.className = 'key';
  key.style.background = COLOURS[(number - 1) % COLOURS.length];
  label.append(radio, key, `Object ${number}${known ? '' : ': click on it'}`);
  item.append(label);
  item.className = number === chosen ? 'chosen' : '';
  if (known) {
    const gone = Object.assign(document.createElement('button'), {textContent: '\u00d7', title: `Delete object ${number}`});
    gone.setAttribute('aria-label', gone.title);
    gone.disabled = state.tracking;
    gone.onclick = () => change('object', 'remove', {object: number});
    item.append(gone);
  }
  return item;
}

function opened(answer) {
  if (!answer) return;
  visit = answer.visit;
  history.replaceState(null, '', '#' + visit);  // a page that is loaded again finds its video
  enter(answer.state);
}

function enter(values) {
  state = values;
  chosen = state.objects.length ? state.objects[0].number : 1;
  $('time').max = state.frames - 1;
  $('film').hidden = true;
  $('film').removeAttribute('src');
  ['open', 'object', 'track', 'save', 'frame'].forEach(place => say(place));
  $('progress').textContent = '';
  show(0);
}

// ---- what a visitor does

$('file').onchange = async () => {
  const file = $('file').files[0];
  $('file').value = '';
  if (!file) return;
  if (file.size > UPLOAD_MIB * 2 ** 20) {
    return say('open', `${file.name} has ${Math.ceil(file.size / 2 ** 20)} MiB; this page takes ${UPLOAD_MIB} (--upload-limit).`);
  }
  $('title').textContent = `Opening ${file.name} ...`;
  const answer = await ask('open', `open?name=${encodeURIComponent(file.name)}`, file);
  if (answer) opened(answer);
  else $('title').textContent = state ? state.name : 'No video is open.';
};
$('example').onclick = async () => opened(await ask('open', 'example', ''));
$('new').onclick = () => { chosen = Math.max(0, ...state.objects.map(one => one.number)) + 1; show(time); };
$('undo').onclick = () => change('object', 'undo');
$('reset').onclick = () => change('object', 'reset');
$('stop').onclick = () => ask('track', `visit/${visit}/stop`, '{}');
$('time').oninput = () => show(Number($('time').value));
$('frame').onerror = () => say('frame', 'This frame cannot be shown; it may be damaged.');
$('frame').onload = () => say('frame');

function place(event) {  // in pixels of the video
  const area = $('frame').getBoundingClientRect();
  const inside = (value, size) => Math.min(Math.max(value, 0), 1) * size;
  return [inside((event.clientX - area.left) / area.width, state.width), inside((event.clientY - area.top) / area.height, state.height)];
}

function corners(a, b) { return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])]; }

$('picture').onpointerdown = event => {
  if (event.button || state.tracking) return;
  start = place(event);
  $('picture').setPointerCapture?.(event.pointerId);
};
$('picture').onpointermove = event => {
  if (!start) return;
  const [x0, y0, x1, y1] = corners(start, place(event)), box = $('box');
  box.hidden = !isDrag(x0, y0, x1, y1);
  Object.assign(box.style, {left: 100 * x0 / state.width + '%', top: 100 * y0 / state.height + '%',
    width: 100 * (x1 - x0) / state.width + '%', height: 100 * (y1 - y0) / state.height + '%'});
};
$('picture').onpointercancel = () => { start = null; $('box').hidden = true; };
$('picture').onpointerup = event => {
  if (!start) return;
  const end = place(event), box = corners(start, end), from = start;
  start = null;
  $('box').hidden = true;
  const values = {object: chosen, frame: time};
  if (isDrag(...box)) return change('object', 'prompt', {...values, box});
  const point = [Math.min(from[0], state.width - 0.01), Math.min(from[1], state.height - 0.01)];
  const label = event.shiftKey ? 0 : Number(document.querySelector('[name=meaning]:checked').value);
  return change('object', 'prompt', {...values, points: [point], labels: [label]});
};

function isDrag(x0, y0, x1, y1) {  // both sides at least 5 pixels of the screen
  const scale = $('frame').clientWidth / state.width;
  return Math.min(x1 - x0, y1 - y0) * scale >= 5;
}

$('track').onclick = async () => {
  say('track');
  const body = JSON.stringify({backwards: $('backwards').checked});
  let answer, rest = '', done = 0;
  try {
    answer = await fetch(`visit/${visit}/track`, {method: 'POST', body});
    if (!answer.ok) return say('track', (await answer.json()).error);
    state.tracking = true;
    const reader = answer.body.getReader(), decoder = new TextDecoder();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + decoder.decode(part.value, {stream: true})).split('\n');
      rest = lines.pop();
      const values = lines.map(line => JSON.parse(line));
      const frames = values.filter(one => 'frame' in one), last = values.at(-1);
      done += frames.length;
      $('progress').textContent = `${done} of ${state.frames} frames`;
      if (last?.state) { state = last.state; say('track', last.error); }
      if (values.length) show(frames.length ? frames.at(-1).frame : time);
    }
  } catch (error) {
    say('track', 'The server stopped answering; is edgetam app still running?');
  }
  state.tracking = false;
  show(time);
  if (done) { $('film').hidden = false; $('film').src = `visit/${visit}/film?${++version}`; }
};

$('links').onclick = async event => {
  const what = event.target.dataset.what;
  if (!what) return;
  say('save');
  const answer = await fetch(`visit/${visit}/${what}`).catch(() => null);
  if (!answer) return say('save', 'The server does not answer; is edgetam app still running?');
  if (!answer.ok) return say('save', (await answer.json()).error);
  const name = decodeURIComponent(answer.headers.get('Content-Disposition').split("''")[1]);
  const link = Object.assign(document.createElement('a'), {href: URL.createObjectURL(await answer.blob()), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
};

if (visit) ask('open', `visit/${visit}`).then(answer => answer && enter(answer));
