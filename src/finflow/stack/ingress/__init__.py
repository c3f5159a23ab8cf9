"""Routers in front of a service, behind one port: Caddy, HAProxy, Kubernetes' Gateway API, AWS ALB."""
