"""An app outside the package, as the README shows it."""
