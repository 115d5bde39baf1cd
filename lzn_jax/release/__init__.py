"""The weights that the paper released: their names, and the files that hold them."""
