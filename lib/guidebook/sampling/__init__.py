"""Sets of samples of a run: their specification, and how they are drawn and kept."""
