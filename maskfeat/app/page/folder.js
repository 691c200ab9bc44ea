// The images of a folder, as the server lists them.

// The first one that is not done nor unreadable, from `start` on and then from the beginning.
export function firstNotDone({ names, is_done: isDone }, unreadable, start) {
  for (let step = 0; step < names.length; step++) {
    const one = (start + step) % names.length;
    if (!isDone[one] && !unreadable.has(one)) return one;
  }
  return null;
}

// Whether a server that came back has the same images in the same order.
export const areSame = (one, other) =>
  JSON.stringify([one?.out, one?.names]) === JSON.stringify([other?.out, other?.names]);
