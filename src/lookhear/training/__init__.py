"""Run and data to checkpoints: the loop, the optimiser, what is written down, and how a run goes on after a kill."""
