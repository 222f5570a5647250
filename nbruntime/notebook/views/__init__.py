"""Live views made of core ipywidgets, one module each."""
