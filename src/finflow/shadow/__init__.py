"""A release judged by what the money did: its effects beside those of the release that serves now."""
