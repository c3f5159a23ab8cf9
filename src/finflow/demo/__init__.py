"""The demonstration: a bank's history replayed over HTTP, every balance and the books checked."""
