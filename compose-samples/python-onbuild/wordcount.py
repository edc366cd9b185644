"""Counts the words of standard input."""

import sys
from collections import Counter


def count(text):
    return Counter(text.lower().split())


if __name__ == "__main__":
    for word, times in count(sys.stdin.read()).most_common(3):
        print(times, word)
