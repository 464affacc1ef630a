"""What happens, by name: classifiers judged and used, and how much of it frozen features tell."""
