"""Cards, HTML, charts and markdown of the objects of nbruntime, without IPython."""
