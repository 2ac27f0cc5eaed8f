// Lists of elements that follow lists of data.

// Let the children of `list` be one for each item, in their order. An element stays the same as long as the `id` of its
// item is there, so that what has the focus keeps it; `make` is called for a new item, `update` for every changed one.
export function keyed(list, items, make, update = () => {}) {
  const known = new Map([...list.children].map((child) => [child.dataset.id, child]));
  const seen = new Set();
  const hadFocus = list.contains(document.activeElement) ? document.activeElement : null;
  let last = null;
  for (const item of items) {
    const id = String(item.id);
    if (seen.has(id)) continue; // it was read twice, on its way from one place to another
    seen.add(id);
    const text = JSON.stringify(item);
    let child = known.get(id);
    known.delete(id);
    if (!child) {
      child = make(item);
      child.dataset.id = id;
    }
    if (child.shows !== text) update(child, item);
    child.shows = text;
    const next = last ? last.nextSibling : list.firstChild;
    if (child !== next) list.insertBefore(child, next);
    last = child;
  }
  for (const gone of known.values()) gone.remove();
  if (!hadFocus || document.activeElement === hadFocus) return;
  if (hadFocus.isConnected) hadFocus.focus(); // it was moved
  else list.closest("section")?.querySelector("h2")?.focus({ preventScroll: true });
}

// An `update` for cards that are simply made again.
export function remade(make) {
  return (child, item) => {
    if (child.shows === undefined) return; // it has just been made
    const made = make(item);
    child.className = made.className;
    child.replaceChildren(...made.children);
  };
}
