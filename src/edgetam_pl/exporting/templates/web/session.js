// Follow objects through a video: the manifest's rules, by the four programs. Objects are values that are never changed, so a
// refused request leaves everything as it was, and undoing is putting back.

import {Bank} from './bank.js';
import {resized} from './pixels.js';

const PADDING = -1, UNUSED = -2, BOX_TOP_LEFT = 2, BOX_BOTTOM_RIGHT = 3;  // labels
const CLAMP = 32;  // of logits that a click corrects
const UNDO_DEPTH = 16;

export class Session {
  // run(role, inputs) gives a program's outputs; both are objects of typed arrays by name.
  constructor(loop, run) {
    this.loop = loop;
    this.run = run;
    this.open();
  }

  open() {  // another video
    this.objects = new Map();  // number -> {bank, prompts, pending, answers}, the last three by frame
    this.history = [];
    this.encoded = null;  // {t, features}: the frame that was looked at last
  }

  // What the page shows: objects, the first prompted frame, frames that have an answer.
  state() {
    const objects = [...this.objects.values()], keys = name => [...new Set(objects.flatMap(one => [...one[name].keys()]))];
    return {
      numbers: [...this.objects.keys()],
      first: objects.length ? Math.min(...keys('prompts')) : null,
      answered: keys('answers').sort((a, b) => a - b),
      canUndo: this.history.length > 0,
    };
  }

  // Frame t: [{number, logits, presence, iou}], and the prompts given there.
  at(t) {
    const of = name => [...this.objects].filter(([, one]) => one[name].has(t)).map(([number, one]) => ({number, ...one[name].get(t)}));
    return {answers: of('answers'), prompts: of('prompts')};
  }

  undo() { if (this.history.length) this.objects = this.history.pop(); }
  reset() { this.change(new Map()); }
  remove(number) { this.change(new Map([...this.objects].filter(([one]) => one !== number))); }

  // More clicks, or a box, for an object on frame t. Image is {rgba, width, height}; `given` is in pixels of the video.
  async prompt(number, t, image, given) {
    const object = this.objects.get(number)
      ?? {bank: new Bank(this.loop), prompts: new Map(), pending: new Map(), answers: new Map()};
    const earlier = object.prompts.get(t) ?? {points: [], labels: [], box: null};
    const prompts = {
      points: [...earlier.points, ...given.points ?? []],
      labels: [...earlier.labels, ...given.labels ?? []],
      box: given.box ?? earlier.box,
    };
    const slots = this.slotsOf(prompts, image), before = object.answers.get(t), features = await this.features(t, image);
    // a frame prompted before it was tracked starts without memory; a tracked one is corrected
    const embedding = before?.tracked
      ? (await this.step(object.bank, features, t)).image_embedding : features.image_embedding;
    const answer = await this.decode(embedding, features, slots, before?.logits);
    this.change(new Map(this.objects).set(number, {
      ...object,
      prompts: new Map(object.prompts).set(t, prompts),
      pending: new Map(object.pending).set(t, {answer, features}),
      answers: new Map(object.answers).set(t, {...answer, tracked: Boolean(before?.tracked)}),
    }));
  }

  begin() { this.change(this.objects); }  // a tracking is undone as a whole

  // Track every object that was prompted on this frame or before it.
  async track(t, image) {
    const features = await this.features(t, image), objects = new Map(this.objects);
    for (const [number, one] of objects) {
      if (Math.min(...one.prompts.keys()) > t) continue;
      let {bank, answers} = await this.remembered(one);
      if (one.prompts.has(t)) {  // the answer to the prompt stands
        answers = new Map(answers).set(t, {...answers.get(t), tracked: true});
      } else {
        const found = await this.step(bank, features, t);
        bank = bank.stored(t, false, found.memory_out, found.obj_ptr);
        answers = new Map(answers).set(t, {
          logits: found.low_res_mask, pointer: found.obj_ptr, presence: found.obj_score[0], iou: found.iou_score[0], tracked: true,
        });
      }
      objects.set(number, {...one, bank, answers, pending: new Map()});
    }
    this.objects = objects;
  }

  // ---- the programs

  async features(t, {rgba, width, height}) {  // once a frame, whatever the number of objects
    if (this.encoded?.t !== t) {
      const image = resized(rgba, width, height, this.loop.size);
      this.encoded = {t, features: await this.run('image_encoder', {image})};
    }
    return this.encoded.features;
  }

  step(bank, features, t) {
    return this.run('track_step', {...features, ...bank.inputs(t)});
  }

  // PromptDecoder, then the rules `choice` and `presence`.
  async decode(embedding, features, {points, labels, used}, previous) {
    const {low, absent_logit: absent, dim} = this.loop;
    const found = await this.run('prompt_decoder', {
      ...features, image_embedding: embedding, points, labels,
      mask_input: previous ? previous.map(value => Math.min(Math.max(value, -CLAMP), CLAMP)) : new Float32Array(low * low),
      has_mask: Float32Array.of(previous ? 1 : 0),
    });
    // one click may mean three things; more clicks, or a box, mean mask 0
    const offered = used <= 1 ? [1, 2, 3] : [0], ious = found.iou_scores, presence = found.obj_score[0];
    const best = offered.reduce((a, b) => ious[b] > ious[a] ? b : a);
    const mask = found.low_res_masks.slice(best * low * low, (best + 1) * low * low);
    return {
      logits: presence > 0 ? mask : mask.fill(absent), pointer: found.obj_ptrs.slice(best * dim, (best + 1) * dim),
      presence, iou: ious[best],
    };
  }

  // The object with the memories of the prompts since the last time.
  async remembered(object) {
    let {bank} = object;
    for (const [t, {answer, features}] of [...object.pending].sort(([a], [b]) => a - b)) {
      const {memory} = await this.run('memory_encoder', {
        ...features, mask_logits: answer.logits, binarize: Float32Array.of(0), obj_score: Float32Array.of(answer.presence),
      });
      bank = bank.stored(t, true, memory, answer.pointer);
    }
    return {...object, bank};
  }

  // Points and labels in the program's fixed slots; a box comes first and takes two.
  slotsOf({points, labels, box}, {width, height}) {
    const {size, prompt_slots: slots} = this.loop;
    const all = [...(box ? [[box[0], box[1]], [box[2], box[3]]] : []), ...points];
    const kinds = [...(box ? [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT] : []), ...labels];
    if (all.length > slots) {
      throw new Error(`This would be ${all.length} points and box corners on one frame; the programs have ${slots} slots. Undo, or correct another frame.`);
    }
    const coordinates = new Float32Array(2 * slots), filled = new Int32Array(slots).fill(UNUSED);
    all.forEach(([x, y], i) => coordinates.set([x * size / width, y * size / height], 2 * i));
    filled.set(kinds.length ? kinds : [PADDING]);
    return {points: coordinates, labels: filled, used: all.length};
  }

  change(objects) {
    this.history = [...this.history, this.objects].slice(-UNDO_DEPTH);
    this.objects = objects;
  }
}
