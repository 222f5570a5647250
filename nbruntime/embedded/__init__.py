"""The embedded server: a program of its own that speaks SGLang's protocol, `python -m nbruntime.embedded`."""
