"""Measures of sets of images.

`measure` takes a set and the names of groups (`groups`), and keeps their records in the run folder, each made once. The function behind
a group (`records`) reads the images with a network (`networks`, `judge`, `untrained`), calls a distance or a score, which is a function in
a file of its own (`frechet`, `kernel`, `manifold`, `copying`, `scores`, `attributes`) and returns a value with its interval and every image's influence on
it (`intervals`), and writes that as a record of its `subject`. `compare` decides between records.
"""
