"""What one run leaves: its folder, checkpoints, identity and results."""
