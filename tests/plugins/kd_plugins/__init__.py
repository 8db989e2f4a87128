"""Parts from outside flower-kd, one a file."""
