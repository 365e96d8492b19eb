"""Before training: gradients, memory and time of every method, and a recommendation."""
