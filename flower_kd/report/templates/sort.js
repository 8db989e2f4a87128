for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), body = header.closest("table").tBodies[0];
    const column = header.cellIndex, numeric = header.classList.contains("number");
    const first = numeric ? "descending" : "ascending", second = numeric ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    const key = row => numeric ? parseFloat(row.cells[column].dataset.value) : row.cells[column].textContent;
    const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, {numeric: true});
    const rows = [...body.rows].filter(row => !Number.isNaN(key(row)));
    const missing = [...body.rows].filter(row => Number.isNaN(key(row)));
    rows.sort((a, b) => compare(key(a), key(b)) * (order === "ascending" ? 1 : -1));
    body.append(...rows, ...missing);
    for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
  });
}
