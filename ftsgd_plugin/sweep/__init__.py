"""From a plan to many runs: expanding, continuing, running on Ray, writing a Slurm script."""
