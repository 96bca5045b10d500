"""Figures, charts, tables, widgets and claims: what a page shows, from records alone."""
