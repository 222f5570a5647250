"""The loop that turns requests into tokens: what to compute next, compute it, pass the result on."""
