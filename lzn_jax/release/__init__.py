"""The paper's released weights: download, file formats and parameter names."""
