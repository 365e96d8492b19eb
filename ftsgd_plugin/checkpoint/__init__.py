"""Reading checkpoints and deciding whether one fits."""
