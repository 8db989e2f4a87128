"""A finished run's models in use: loading, prediction, export."""
