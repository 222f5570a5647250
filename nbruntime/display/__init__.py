"""How objects show themselves: cards, HTML, figures, charts and markdown, without IPython."""
