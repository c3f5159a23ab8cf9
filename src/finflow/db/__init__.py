"""PostgreSQL: connections with limits and deadlines, and the schema's migrations."""
