"""What belongs to a notebook: live views, the server panel, and the IPython extension with its magics.

IPython and ipywidgets are imported here and on no floor below.
"""
