"""Comparisons: the same data, steps and sizes for every row, several seeds, judged alike, by a restartable command."""
