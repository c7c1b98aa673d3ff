"""Text as it is generated, token by token."""


class TextStream:
    """Turns tokens into text piece by piece; the pieces joined are `decode` of all tokens.

    A character can be spread over several tokens (bytes of UTF-8) and a token's text can depend on the one before it
    (leading spaces). So each piece is the difference between decoding a few tokens with and without the new ones, and
    it is held back while it ends in the replacement character of an incomplete one.

    Args:
        decode: list of token ids -> text.
    """

    def __init__(self, decode):
        self._decode = decode
        self._token_ids = []
        # The text of tokens before `_emitted` is out. Tokens from `_context` on are decoded together with new ones.
        self._context = 0
        self._emitted = 0

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._token_ids.append(token_id)
        piece = self._pending()
        # A token without text (a special one) is no context for the next token, which would lose its leading space, as
        # at the beginning of a text.
        if not piece or piece.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._context, self._emitted = self._emitted, len(self._token_ids)
        return piece

    def finish(self) -> str:
        """The rest of the text, incomplete characters included."""
        piece = self._pending()
        self._context = self._emitted = len(self._token_ids)
        return piece

    def _pending(self):
        shown = self._decode(self._token_ids[self._context : self._emitted])
        return self._decode(self._token_ids[self._context :])[len(shown) :]
