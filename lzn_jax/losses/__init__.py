"""Losses on arrays, beside the alignment of zones, which is zoning's."""
