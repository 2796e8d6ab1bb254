"""The scheduler's half of the execution API's lock discipline."""
