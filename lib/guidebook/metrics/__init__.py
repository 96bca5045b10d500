"""Measures of sets of images; `groups.py` lists them all."""
