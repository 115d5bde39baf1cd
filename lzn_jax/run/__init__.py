"""What a run lives by: its folder, checkpoints, reports, processes and devices."""
