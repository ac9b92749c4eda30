// The map: what is under the pointer says its name and lights up with its other half; a group in the legend can be held alone.
for (const plot of document.querySelectorAll("[data-map]")) {
  const tip = plot.querySelector(".tip");
  const halves = new Map();
  for (const part of plot.querySelectorAll("[data-pair]")) {
    halves.set(part.dataset.pair, [...(halves.get(part.dataset.pair) ?? []), part]);
  }
  let lit = [];
  const light = (point) => {
    lit.forEach((part) => part.classList.remove("lit"));
    lit = point ? halves.get(point.dataset.pair) : [];
    lit.forEach((part) => part.classList.add("lit"));
    plot.classList.toggle("lighting", lit.length > 0);
    tip.hidden = !point;
    if (!point) return;
    tip.textContent = `${point.dataset.kind}: ${point.dataset.caption}`;
    const frame = plot.getBoundingClientRect();
    const box = point.getBoundingClientRect();
    const x = (box.left + box.right) / 2 - frame.left;
    tip.style.left = `${Math.min(Math.max(x, tip.offsetWidth / 2), frame.width - tip.offsetWidth / 2)}px`;
    tip.style.top = `${box.top - frame.top}px`;
  };
  const onPoint = (event) => light(event.target.closest?.(".point"));
  plot.addEventListener("pointerover", onPoint);
  plot.addEventListener("pointerdown", onPoint);
  plot.addEventListener("pointerleave", () => light(null));

  for (const button of plot.querySelectorAll("button[data-layout]")) {
    button.addEventListener("click", () => {
      for (const other of plot.querySelectorAll("button[data-layout]")) other.setAttribute("aria-pressed", other === button);
      for (const layer of plot.querySelectorAll("[data-layer]")) layer.hidden = layer.dataset.layer !== button.dataset.layout;
      light(null);
    });
  }

  for (const button of plot.querySelectorAll("button[data-group]")) {
    button.addEventListener("click", () => {
      const alone = button.getAttribute("aria-pressed") !== "true";
      for (const other of plot.querySelectorAll("button[data-group]")) other.setAttribute("aria-pressed", alone && other === button);
      for (const part of plot.querySelectorAll("[data-pair]")) {
        part.classList.toggle("away", alone && part.dataset.group !== button.dataset.group);
      }
    });
  }
}
