"""Where in the picture a sound comes from, and when and at which pitch a part of the picture is heard."""
