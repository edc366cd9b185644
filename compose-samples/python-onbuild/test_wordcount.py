import unittest

from wordcount import count


class Counting(unittest.TestCase):
    def test_words_count_in_any_case(self):
        self.assertEqual(count("The the cat"), {"the": 2, "cat": 1})
