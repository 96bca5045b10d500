"""guidebook: a reproducible study of guidance in text-to-image diffusion."""

__version__ = "0.1.0"
