"""Asks models behind an OpenAI-compatible server: what the writers of `language` and the judges of `scorers` share."""
