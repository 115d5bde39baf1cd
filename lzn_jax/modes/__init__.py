"""What the command line does beside training, a mode a function."""
