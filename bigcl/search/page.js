const form = document.querySelector("form");
const text = form.elements.text;
const drop = document.querySelector(".drop");
const file = drop.querySelector("input");
const status = document.querySelector(".asked-for");
const found = document.querySelector(".found");
const reads = document.body.dataset.reads.split(" ");
let latest = 0;
let timer = 0;

const element = (name, kind, content) => {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (content !== undefined) made.textContent = content;
  return made;
};

const card = (hit, best) => {
  const button = element("button", "card");
  button.title = "Look for what is near this";
  if (hit.picture) {
    const picture = element("img");
    picture.src = `/picture/${hit.item}`;
    picture.alt = "";
    picture.loading = "lazy";
    button.append(picture);
  }
  button.append(element("span", "name", hit.text || hit.key), element("span", "score number", hit.score.toFixed(3)));
  const bar = element("span", "bar");
  bar.style.setProperty("--share", `${Math.max(0, hit.score / best) * 100}%`);
  button.append(bar);
  button.addEventListener("click", () => ask(`Near “${hit.text || hit.key}”`, `/search?item=${hit.item}`));
  const item = element("li");
  item.append(button);
  return item;
};

// Answers may come in another order than questions went: only the last question is answered.
const ask = async (title, address, options) => {
  const mine = ++latest;
  found.classList.add("waiting");
  try {
    const response = await fetch(address, options);
    const answer = await response.json();
    if (mine !== latest) return;
    if (!response.ok) throw new Error(answer.error);
    const best = Math.max(1e-6, ...answer.map((hit) => hit.score));
    found.replaceChildren(...answer.map((hit) => card(hit, best)));
    status.textContent = title;
    status.classList.remove("wrong");
  } catch (error) {
    if (mine !== latest) return;
    status.textContent = error.message;
    status.classList.add("wrong");
  } finally {
    if (mine === latest) found.classList.remove("waiting");
  }
};

const show = (picture) => {
  drop.querySelector("img")?.remove();
  if (!picture) return;
  const image = element("img");
  image.alt = "";
  image.src = URL.createObjectURL(picture);
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  drop.prepend(image);
};

const askPicture = (picture) => {
  if (!picture) return;
  clearTimeout(timer);
  text.value = "";
  history.replaceState(null, "", location.pathname);
  show(picture);
  ask(`Near ${picture.name || "the picture"}`, "/search", { method: "POST", body: picture });
};

const askText = () => {
  const wanted = text.value.trim();
  const address = new URLSearchParams({ text: wanted });
  history.replaceState(null, "", wanted ? `?${address}` : location.pathname);
  show(null);
  file.value = "";
  if (wanted) return ask(`Near “${wanted}”`, `/search?${address}`);
  latest += 1;
  found.replaceChildren();
  status.textContent = "";
};

text.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(askText, 200);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  askText();
});
file.addEventListener("change", () => askPicture(file.files[0]));
addEventListener("paste", (event) => askPicture([...event.clipboardData.files][0]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (reads.includes("image")) askPicture(event.dataTransfer.files[0]);
});
drop.hidden = !reads.includes("image");
text.hidden = !reads.includes("text");
text.value = new URLSearchParams(location.search).get("text") ?? "";
if (text.value) askText();
