// The widget manager typesets its labels through MathJax 2's queue; the book has MathJax 3. This gives it that queue.
window.addEventListener("load", () => {
  const mathjax = window.MathJax;
  if (mathjax && !mathjax.Hub) {
    mathjax.Hub = { Queue: ([, , element]) => mathjax.typesetPromise && mathjax.typesetPromise([element]) };
  }
});
