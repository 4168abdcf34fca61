"""The HTTP doors: OpenAI's API, text-generation-inference's, health and metrics."""
