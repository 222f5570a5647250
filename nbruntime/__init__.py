"""SGLang Runtime and RuntimeEndpoint, made for Jupyter."""
