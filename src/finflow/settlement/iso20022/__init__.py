"""ISO 20022 messages: hardened XML in, typed values, the same XML out."""
