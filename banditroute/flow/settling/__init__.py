"""From journal records to evidence."""
