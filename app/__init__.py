"""A standalone, asynchronous Task Execution API for Apache Airflow."""

__version__ = "0.1.0"
