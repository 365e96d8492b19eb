"""The published numbers of arXiv 2211.09359, their names and learning-rate grids."""
