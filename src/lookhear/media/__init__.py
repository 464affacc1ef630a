"""Media files to clips, and clips to media files."""
