"""From a config to a run: building the runner, training loops, sampling, the process group."""
