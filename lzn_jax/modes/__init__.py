"""Modes of the command line other than training, one function each."""
