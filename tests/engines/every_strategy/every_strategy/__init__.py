"""All strategies in one Flower run."""
