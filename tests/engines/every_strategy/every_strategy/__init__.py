"""Every strategy in one run of Flower."""
