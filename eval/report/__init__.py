"""From a chain folder to what people read: the terminal, Markdown, one HTML file, a CSV matrix."""
