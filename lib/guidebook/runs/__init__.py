"""The run folder: lock, checksums, artifacts that are made once, preemption."""
