"""Embedded data sets, drawn by code."""
