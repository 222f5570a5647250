"""SGLang's HTTP protocol, served with aiohttp."""
