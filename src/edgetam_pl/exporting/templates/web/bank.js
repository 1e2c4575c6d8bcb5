// What is kept of one object: the manifest's rule `bank`. Slots have no order. A bank is never changed; `stored` returns another.

export const EMPTY_AGE = -1;  // memory_age of a slot that holds nothing, or nothing that frame t reads

export class Bank {
  // A slot is null or {frame, prompted, value}: N x D memory tokens, or C numbers of a pointer.
  constructor(loop, memories, pointers) {
    this.loop = loop;
    this.memories = memories ?? Array(loop.num_memories).fill(null);
    this.pointers = pointers ?? Array(loop.num_pointers).fill(null);
  }

  stored(frame, prompted, memory, pointer) {
    const put = (slots, value) => {
      const entry = {frame, prompted, value}, place = placeOf(slots, entry);
      return place === null ? slots : slots.with(place, entry);
    };
    return new Bank(this.loop, put(this.memories, memory), put(this.pointers, pointer));
  }

  age(slot, t) {
    if (!slot) return EMPTY_AGE;
    if (slot.prompted) return 0;
    const age = t - slot.frame;
    return age >= 1 && age <= this.loop.recent_memories ? age : EMPTY_AGE;
  }

  isRead(slot, t) {  // as a pointer
    if (!slot) return false;
    const distance = t - slot.frame;
    return slot.prompted ? distance >= 0 : distance >= 1 && distance <= this.loop.recent_pointers;
  }

  // What TrackStep reads at frame t, by the names of its inputs.
  inputs(t) {
    const {loop, memories, pointers} = this;
    const inputs = {
      memory: joined(memories, loop.tokens * loop.memory_dim),
      memory_age: Int32Array.from(memories, slot => this.age(slot, t)),
      obj_ptrs: joined(pointers, loop.dim),
      obj_ptr_valid: Float32Array.from(pointers, slot => this.isRead(slot, t)),
    };
    if (loop.pointer_ages) inputs.obj_ptr_age = Float32Array.from(pointers, slot => slot ? t - slot.frame : 0);
    return inputs;
  }
}

// Where an entry goes: its own slot, else an empty one, else that of the farthest unprompted frame, else (prompted) that of
// the farthest frame; null where it has no place.
export function placeOf(slots, entry) {
  const own = slots.findIndex(slot => slot?.frame === entry.frame);
  if (own >= 0) return own;
  const empty = slots.indexOf(null);
  if (empty >= 0) return empty;
  const all = [...slots.keys()], unprompted = all.filter(i => !slots[i].prompted);
  const candidates = unprompted.length ? unprompted : entry.prompted ? all : [];
  const distance = i => Math.abs(entry.frame - slots[i].frame);
  return candidates.reduce((best, i) => best === null || distance(i) > distance(best) ? i : best, null);
}

function joined(slots, length) {  // unused slots hold zeros
  const values = new Float32Array(slots.length * length);
  slots.forEach((slot, i) => slot && values.set(slot.value, i * length));
  return values;
}
