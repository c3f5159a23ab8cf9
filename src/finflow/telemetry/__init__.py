"""What the house says about itself while it runs: structured logs, secrets redacted."""
