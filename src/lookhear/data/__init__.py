"""Clips -> batches: prepared stores, windows, spectrograms and pixels."""
