// the buttons sort the cards by their score
const nav = document.querySelector('nav');
const main = document.querySelector('main');
const buttons = [...nav.querySelectorAll('button')];
const cards = [...main.children];

function sortCards(button) {
  // 1: ascending, -1: descending, 0: as they were, since sorting is stable
  const direction = Number(button.dataset.direction);
  const sorted = [...cards];
  sorted.sort((a, b) => direction * (a.dataset.score - b.dataset.score));
  main.append(...sorted);
  for (const other of buttons) {
    other.setAttribute('aria-pressed', other === button);
  }
}

for (const button of buttons) {
  button.addEventListener('click', () => sortCards(button));
}
nav.hidden = false;
