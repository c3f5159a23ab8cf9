"""A typed asynchronous client of the HTTP interface: `Client` in service.py, its shapes in model.py."""
