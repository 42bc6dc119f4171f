// A copy button for every text that is there to be copied; without scripts the text can be selected as ever.
for (const text of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected: press Ctrl+C";
    }
  });
  text.before(button);
}
// Values on hover, at once; without scripts the browser shows the same titles after a while.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
for (const title of document.querySelectorAll("figure svg title")) {
  const point = title.parentNode, text = title.textContent;
  title.remove();
  point.addEventListener("pointerenter", (event) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(0, event.clientY - tip.offsetHeight - 10)}px`;
  });
  point.addEventListener("pointerleave", () => { tip.hidden = true; });
}
// On a narrow screen a picture fits; a click makes it large enough to read, and scrolls in its box.
for (const box of document.querySelectorAll("figure .box")) {
  box.addEventListener("click", () => { box.classList.toggle("large"); });
}
