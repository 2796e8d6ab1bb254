"""What happens to task instances and runs."""
