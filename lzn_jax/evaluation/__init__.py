"""Evaluation: batched inference and the judges of generated images."""
