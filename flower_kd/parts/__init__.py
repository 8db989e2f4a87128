"""Parts by name: the text that names one, the registries, and the checks of settings against signatures."""
