"""What a server does over time."""
