const $ = id => document.getElementById(id);
let visit = location.hash.slice(1), state = null, time = 0, chosen = 1, version = 0;

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
  return objectRow({
    number, known, chosen: number === chosen, colour: COLOURS[(number - 1) % COLOURS.length], disabled: state.tracking,
    choose: () => { chosen = number; show(time); }, remove: () => change('object', 'remove', {object: number}),
  });
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

watchPicture(() => state, () => state.tracking, given => change('object', 'prompt', {object: chosen, frame: time, ...given}));

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
