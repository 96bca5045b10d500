"""Captions, text encoders and the condition that a network is given."""
