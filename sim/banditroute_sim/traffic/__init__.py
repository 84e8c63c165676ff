"""Traffic: the services around the engine, played over Kafka from a data set."""
