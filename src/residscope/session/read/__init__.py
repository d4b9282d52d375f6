"""What is read of a session, by its queries and by code; nothing here changes it."""
