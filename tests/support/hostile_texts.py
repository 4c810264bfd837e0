"""Pieces of text that parsers search for. Repeated, they expose parsers with super-linear cost."""

PIECES = ["answer is ", "The answer to ", "so the answer is (", "(", "(a) or ", "Q: ", ".  Q:", "####", "So 1 + 1 = 2. ", "1 + ", "1,", "9",
          "-", "= ", "\\boxed{", "\\boxed{1} ", "\\frac{1}{", "<|a", "**", "not ", "bus depot ", "neutral ", "\n", " ", "\u0130answer ",
          "\x00"]  # fmt: skip
