"""Processes, seeds and precision."""
