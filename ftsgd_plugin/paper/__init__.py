"""The paper "How to Fine-Tune Vision Models with SGD" (arXiv 2211.09359) as data: names, grids, published numbers."""
