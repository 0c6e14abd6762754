"""The work of Airflow tasks, and Airflow on a single machine."""
