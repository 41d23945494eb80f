"""The plumbing of nanoPALM: what a user runs but hardly ever edits."""
