"""Requests of SGLang's protocol, admitted to the engine and answered; HTTP is one way to reach it."""
