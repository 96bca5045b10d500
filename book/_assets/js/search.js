// The order of what a search finds, as Sphinx's searchtools.js takes it, which has its own where there is none: pages and sections whose
// heading has every word that is looked for come before those whose text has them.
var Scorer = {
  score: ([, title, , , score]) => {
    const words = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
    return score + (words.every((word) => title.toLowerCase().includes(word)) ? 10 : 0);
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0, title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
