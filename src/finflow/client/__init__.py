"""A typed asynchronous client of FinFlow's HTTP interface: `Client` in service.py, its shapes in model.py."""
