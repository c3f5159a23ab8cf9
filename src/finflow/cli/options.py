"""Options that several commands share, named and worded once."""

import click

data_option = click.option("--data", metavar="FOLDER", help="The data folder (FINFLOW_DATA).")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
database_url_option = click.option(
    "--database-url",
    metavar="URL",
    help="A PostgreSQL >= 15 to use instead of the embedded one (FINFLOW_DATABASE_URL keeps it out of `ps`).",
)
port_option = click.option("--port", type=int, help="The API's port (FINFLOW_PORT) [8400, or a free one].")
workers_option = click.option("--workers", type=int, help="API worker processes (FINFLOW_WORKERS) [cores].")
