"""Many runs: experiments, comparisons, sweeps, and their progress."""
