"""The process that sends the requests of a load test and measures their answers."""
