// What the page of edgetam app and that of target=web share: rows of objects, and clicks and boxes on the picture.

// The row of an object in the list. `known`: it has been clicked on.
function objectRow({number, known, chosen, colour, disabled, choose, remove}) {
  const item = document.createElement('li'), label = document.createElement('label'), key = document.createElement('i');
  const radio = Object.assign(document.createElement('input'), {type: 'radio', name: 'object', checked: chosen});
  radio.onchange = choose;
  key.className = 'key';
  key.style.background = colour;
  label.append(radio, key, `Object ${number}${known ? '' : ': click on it'}`);
  item.append(label);
  item.className = chosen ? 'chosen' : '';
  if (known) {
    const gone = Object.assign(document.createElement('button'), {textContent: '\u00d7', title: `Delete object ${number}`, disabled});
    gone.setAttribute('aria-label', gone.title);
    gone.onclick = remove;
    item.append(gone);
  }
  return item;
}

// Hands {box} or {points, labels}, in pixels of the video, to `given`. `size()`: {width, height} of the video; `busy()`: is
// nothing to be drawn now?
function watchPicture(size, busy, given) {
  const [picture, frame, drawn] = ['picture', 'frame', 'box'].map(id => document.getElementById(id));
  const corners = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  const isDrag = ([x0, y0, x1, y1]) =>  // both sides at least 5 pixels of the screen
    Math.min(x1 - x0, y1 - y0) * frame.clientWidth / size().width >= 5;
  let start = null;
  function place(event) {
    const area = frame.getBoundingClientRect(), {width, height} = size();
    const inside = (share, side) => Math.min(Math.max(share * side, 0), side - 0.01);
    return [inside((event.clientX - area.left) / area.width, width), inside((event.clientY - area.top) / area.height, height)];
  }
  function end() { start = null; drawn.hidden = true; }
  picture.onpointerdown = event => {
    if (event.button || busy()) return;
    start = place(event);
    picture.setPointerCapture?.(event.pointerId);
  };
  picture.onpointermove = event => {
    if (!start) return;
    const box = corners(start, place(event)), [x0, y0, x1, y1] = box, {width, height} = size();
    drawn.hidden = !isDrag(box);
    Object.assign(drawn.style, {left: `${100 * x0 / width}%`, top: `${100 * y0 / height}%`,
      width: `${100 * (x1 - x0) / width}%`, height: `${100 * (y1 - y0) / height}%`});
  };
  picture.onpointercancel = end;
  picture.onpointerup = event => {
    if (!start) return;
    const from = start, box = corners(from, place(event));
    end();
    const label = event.shiftKey ? 0 : Number(document.querySelector('[name=meaning]:checked').value);
    given(isDrag(box) ? {box} : {points: [from], labels: [label]});
  };
}
