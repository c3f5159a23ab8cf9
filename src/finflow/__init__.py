"""FinFlow: a neo-banking core on PostgreSQL and the platform that ships it."""

__version__ = "0.1.0"
