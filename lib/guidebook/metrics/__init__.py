"""Measures of sets of images.

A distance is a function of features in a file of its own: `frechet`, `kernel`, `manifold`, `copying`; `scores` needs no reference. The
features come from published `networks` and from the `judge`. `records` makes a distance a metric record with its
interval (`intervals`), `groups` lists all metrics, and `measure` keeps the records in the run folder, each made once.
"""
