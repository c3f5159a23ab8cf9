"""Where the numbers about both sides come from: pages, Prometheus, the ingress's log, recorded files."""
