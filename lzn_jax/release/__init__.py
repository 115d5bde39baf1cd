"""Models outside of work folders: shared ones, and the paper's released weights."""
