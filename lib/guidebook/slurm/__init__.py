"""Cluster jobs, and the downloads that they need."""
