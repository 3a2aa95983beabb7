"""What does one try the sidecar on without a model? A backend that speaks OpenAI's API."""
