"""The database: engines, sessions, tables, and one module of statements per resource."""
