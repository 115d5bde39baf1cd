"""Models outside of work folders: shared models, and the paper's released weights."""
