"""Notebooks executed and assembled into the HTML book."""
