"""After training: load a finished run, predict with it, and take its weights to other libraries."""
