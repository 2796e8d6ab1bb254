"""What is read out of a serialized Dag: pure, without I/O."""
