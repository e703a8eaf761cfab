"""The project's own chaos harness: `make chaos`. Not collected by pytest, but for one quick schedule."""
