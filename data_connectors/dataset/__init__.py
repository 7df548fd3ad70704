"""The dataset folder: schemas, writer, reader, what may leak between splits, inspection."""
