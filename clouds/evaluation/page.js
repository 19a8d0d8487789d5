// Sorting of tables and enlarging of pictures, by mouse and keyboard. Nothing here loads or sends anything.
"use strict";
(() => {
  // 1. A button in each column heading sorts the rows of the body; rows without a value stay at the end.
  const collator = new Intl.Collator(undefined, { numeric: true });
  const read = (row, column, numeric) => {
    const text = row.cells[column].textContent.trim();
    const value = numeric ? Number.parseFloat(text.replace("\u2212", "-")) : text;
    return text === "" || text === "–" || Number.isNaN(value) ? null : value;
  };
  const sort = (table, heading) => {
    const column = heading.cellIndex;
    const numeric = heading.classList.contains("number");
    const now = heading.getAttribute("aria-sort");
    const order = now === null ? (numeric ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [read(row, column, numeric), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : collator.compare(a, b));
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const one of heading.parentElement.cells) one.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  };
  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
  }

  // 2. A picture is a button that opens it in a dialog; arrow keys go through the pictures of its grid.
  const dialog = document.createElement("dialog");
  const shown = document.createElement("img");
  const words = document.createElement("p");
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.setAttribute("aria-label", "Picture");
  words.setAttribute("aria-live", "polite");
  dialog.append(shown, words, close);
  let current = null;
  const show = (button) => {
    const picture = button.querySelector("img");
    [shown.src, shown.alt, shown.className] = [picture.src, picture.alt, picture.className];
    words.textContent = picture.alt;
    current = button;
  };
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const all = [...current.closest(".pictures").querySelectorAll("button")];
    show(all[(all.indexOf(current) + step + all.length) % all.length]);
    event.preventDefault();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => current.focus());
  for (const picture of document.querySelectorAll(".pictures img")) {
    const button = document.createElement("button");
    button.type = "button";
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener("click", () => {
      if (!dialog.isConnected) document.body.append(dialog);
      show(button);
      dialog.showModal();
    });
  }
})();
