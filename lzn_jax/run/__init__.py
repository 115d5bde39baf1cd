"""Infrastructure of a run: folder, checkpoints, reports, processes and devices."""
