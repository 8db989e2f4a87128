"""What is on the page of a run, of a comparison, of a sweep."""
