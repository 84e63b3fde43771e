"""A generated answer that knows how it ended."""


class Reply(str):
    """The text of an answer.

    Attributes:
        num_tokens: generated before the end-of-sequence token; None where a stop sequence cut the text,
            since a token may straddle it.
        has_ended: False where the model was cut off at the most tokens that it may write. None in answers
            that lm-eval's own models give, which are plain text.
    """

    num_tokens: int | None
    has_ended: bool | None

    def __new__(
        cls, text: str, num_tokens: int | None = None, has_ended: bool | None = None
    ) -> "Reply":
        """A text and its ending."""
        reply = super().__new__(cls, text)
        reply.num_tokens, reply.has_ended = num_tokens, has_ended
        return reply
