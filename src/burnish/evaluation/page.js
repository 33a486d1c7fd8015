// Filters over the prompts. Without scripts the page shows all of them, and this file is the only script in it.
"use strict";
(() => {
  const box = document.getElementById("filters");
  if (!box) return;
  const groups = [...document.querySelectorAll("details.group")];
  const prompts = [...document.querySelectorAll("details.prompt")];
  const [behaviour, category, text, differ] = ["behaviour", "category", "text", "differ"].map((name) =>
    box.querySelector(`[name=${name}]`));
  const verdicts = [...box.querySelectorAll("[name=verdict]")];
  const opener = box.querySelector("[name=open]");
  const words = new Map(); // a prompt's text in small letters, made when it is first searched

  const wordsOf = (prompt) => {
    if (!words.has(prompt)) words.set(prompt, prompt.textContent.toLowerCase());
    return words.get(prompt);
  };

  const fits = (prompt, wanted) =>
    (!behaviour.value || prompt.dataset.behaviour === behaviour.value) &&
    (!category || !category.value || prompt.dataset.categories.split(" ").includes(category.value)) &&
    (!differ || !differ.checked || prompt.dataset.differ === "1") &&
    verdicts.every((select, model) => !select.value || prompt.dataset.verdicts[model] === select.value) &&
    (!wanted || wordsOf(prompt).includes(wanted));

  const left = () => prompts.filter((prompt) => !prompt.hidden);
  const allOpen = () => left().every((prompt) => prompt.open && prompt.closest("details.group").open);
  const name = () => { opener.textContent = left().length && allOpen() ? "Close all shown" : "Open all shown"; };

  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    const active = [behaviour, category, ...verdicts].some((one) => one && one.value) || wanted || (differ && differ.checked);
    let count = 0;
    for (const prompt of prompts) {
      prompt.hidden = !fits(prompt, wanted);
      count += prompt.hidden ? 0 : 1;
    }
    for (const group of groups) {
      group.hidden = !group.querySelector("details.prompt:not([hidden])");
      if (active && !group.hidden) group.open = true;
    }
    name();
    document.getElementById("shown").textContent = `${count} of ${prompts.length} prompts`;
  };

  const set = (values) => {
    behaviour.value = values.behaviour || "";
    if (category) category.value = "";
    if (differ) differ.checked = values.differ === "1";
    text.value = "";
    verdicts.forEach((select, model) => { select.value = ((values.verdicts || "")[model] || "").replace(".", ""); });
    filter();
  };

  const show = () => { // the prompt that the address names, whatever the filters say
    const prompt = prompts.find((one) => `#${one.id}` === location.hash);
    if (!prompt) return;
    if (prompt.hidden) set({});
    prompt.closest("details.group").open = prompt.open = true;
    prompt.scrollIntoView();
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-set]");
    if (link) set(link.dataset);
  });
  box.addEventListener("input", filter);
  box.querySelector("[name=clear]").addEventListener("click", () => set({}));
  opener.addEventListener("click", () => {
    const open = !allOpen();
    for (const prompt of left()) prompt.open = open;
    if (open) for (const group of groups) group.open = group.open || !group.hidden;
    name();
  });
  addEventListener("hashchange", show);
  box.hidden = false;
  filter();
  show();
})();
