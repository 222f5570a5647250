"""The two kinds of server and how each of them is started."""
