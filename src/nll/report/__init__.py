"""What a result looks like: pure functions of a `Fit`, to text, to pictures and to a page."""
