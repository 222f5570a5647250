"""The timeline of a profile: one Chrome trace of its requests, its steps and a trace."""
