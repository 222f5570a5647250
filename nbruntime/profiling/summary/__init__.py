"""The summary of a profile: where the time went, and what slowed the work down."""
