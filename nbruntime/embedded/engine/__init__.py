"""The loop that turns requests into tokens: schedule a step, compute it, deliver updates."""
