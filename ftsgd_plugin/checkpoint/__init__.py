"""Reading checkpoints safely and comparing them with a model."""
