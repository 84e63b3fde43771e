"""What the manners of answers are measured with: pure functions of text, without dependencies."""
