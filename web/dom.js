/** @param {string} id @returns {HTMLElement} */
export const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** Writes only what changed: a live region repeats what is written. @param {string} id @param {string} text */
export function setText(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}
