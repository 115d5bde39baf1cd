"""Decoders, which map latents to samples by a flow or in one pass."""
