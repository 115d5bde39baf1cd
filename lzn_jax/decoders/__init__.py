"""Decoders: latents to samples, by flows or in one pass."""
