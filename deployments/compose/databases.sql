-- PostgreSQL makes the database of POSTGRES_DB (Prefect's) itself, at the first start.
create database mlflow;
