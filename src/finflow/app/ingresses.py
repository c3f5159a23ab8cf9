"""From a specification to the router that it means. Each kind is imported when it is asked for."""

from pathlib import Path

from finflow.rollout.ingress_spec import AlbSpec, CaddySpec, GatewaySpec, HaproxySpec, IngressSpec
from finflow.rollout.ports import Ingress, TrafficLog


def ingress_of(spec: IngressSpec, folder: Path) -> Ingress:
    """The adapter for a specification. Those on this machine keep their state in the folder; start() has
    them running. Raises extra_missing where a kind needs a package that is not installed.
    """
    match spec:
        case CaddySpec():
            from finflow.stack.ingress.caddy import CaddyIngress

            return CaddyIngress(spec, folder)
        case HaproxySpec():
            from finflow.stack.ingress.haproxy import HaproxyIngress

            return HaproxyIngress(spec, folder)
        case GatewaySpec():
            from finflow.stack.ingress.gateway import GatewayIngress

            return GatewayIngress(spec)
        case AlbSpec():
            from finflow.stack.ingress.alb import AlbIngress

            return AlbIngress(spec)


def traffic_log_of(ingress: Ingress) -> TrafficLog | None:
    """What the router remembers of each request, or None where it writes that somewhere else."""
    from finflow.stack.ingress.local import LocalIngress

    return ingress.traffic if isinstance(ingress, LocalIngress) else None
