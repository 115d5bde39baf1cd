"""Modes of the command line other than training, as one function each."""
