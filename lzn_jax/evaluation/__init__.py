"""Measurements of trained models: metrics and figures."""
