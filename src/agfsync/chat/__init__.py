"""The client for models behind an OpenAI-compatible server, shared by the writers of `language` and the scorers."""
