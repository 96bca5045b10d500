"""A finished run as a diffusers pipeline with its card."""
