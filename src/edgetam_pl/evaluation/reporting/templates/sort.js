document.querySelectorAll('th button').forEach(button => button.addEventListener('click', () => {
  const th = button.closest('th'), table = th.closest('table'), column = [...th.parentNode.children].indexOf(th);
  const up = th.getAttribute('aria-sort') !== 'ascending';
  th.parentNode.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
  th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  const body = table.tBodies[0];
  [...body.rows].sort((a, b) => {
    const [x, y] = [a, b].map(row => row.cells[column].dataset.v ?? row.cells[column].textContent);
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
    return up ? order : -order;
  }).forEach(row => body.append(row));
}));
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(folded => { folded.open = true; }));
